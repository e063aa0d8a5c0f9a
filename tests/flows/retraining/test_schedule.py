"""When the retraining is due: a schedule that is none is refused, and a night with a clock change has one run."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prefect.server.schemas.schedules import CronSchedule

from datasets.errors import InputError
from flows.retrain_policy import Facts, RetrainConfig, Retraining, judge
from flows.retraining.schedule import check_cron, check_timezone

NIGHTLY = "0 3 * * *"


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Asia/Kathmandu", ""])
def test_a_time_zone_of_the_iana_database_is_taken(timezone: str) -> None:
    check_timezone(timezone, cron=NIGHTLY)


@pytest.mark.parametrize(
    ("timezone", "meant"),
    [
        ("europe/berlin", "; did you mean 'Europe/Berlin'?"),
        ("Berlin", ""),
        ("Europe", ""),  # a folder of the database
        ("UTC+1", ""),
        ("+01:00", ""),
        ("../etc/passwd", ""),
        ("/etc/localtime", ""),
        ("Mars/Olympus", ""),
        (" ", ""),
        ("UTC\0", ""),
    ],
)
def test_any_other_is_refused_with_a_right_example(timezone: str, meant: str) -> None:
    with pytest.raises(InputError) as refused:
        check_timezone(timezone, cron=NIGHTLY)
    message = str(refused.value)
    assert "--timezone must be a name of the IANA database such as 'Europe/Berlin' or 'UTC'" in message
    assert f"got {timezone!r}" in message
    assert meant in message


@pytest.mark.parametrize("cron", ["", "off"])
def test_a_time_zone_without_a_schedule_is_refused(cron: str) -> None:
    with pytest.raises(InputError, match=r"--timezone needs --cron.*--cron '0 3 \* \* \*' --timezone Europe/Berlin"):
        check_timezone("Europe/Berlin", cron=cron)
    check_timezone("", cron=cron)


def test_who_writes_the_zone_into_the_cron_line_is_told_where_it_belongs() -> None:
    for cron in ("0 3 * * * Europe/Berlin", "CRON_TZ=Europe/Berlin 0 3 * * *"):
        with pytest.raises(InputError, match="--timezone takes the time zone"):
            check_cron(cron)


# --- how Prefect reads such a schedule ----------------------------------------------------------------------


def due(cron: str, timezone: str, since: datetime, days: int) -> list[datetime]:
    """When runs are due within so many days, in UTC; asked by the hour, as the server asks again and again."""
    schedule, seen = CronSchedule(cron=cron, timezone=timezone), set[datetime]()
    for hour in range(24 * days):
        start = since + timedelta(hours=hour)
        seen |= {time.astimezone(UTC) for time in asyncio.run(schedule.get_dates(n=3, start=start))}
    return sorted(time for time in seen if since <= time < since + timedelta(days=days))


@pytest.mark.parametrize(
    ("cron", "timezone", "noon_before", "clock"),
    [
        # Forward: from 2:00 to 3:00 in Berlin, from 0:00 to 1:00 in Santiago. Back: 3:00 is 2:00 again, 0:00 is 23:00.
        ("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), None),
        ("0 3 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), "03:00"),
        ("15 0 * * *", "America/Santiago", datetime(2026, 9, 5, 16, tzinfo=UTC), None),
        ("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), "02:30"),
        ("30 23 * * *", "America/Santiago", datetime(2026, 4, 4, 16, tzinfo=UTC), "23:30"),
        ("30 2 * * *", "UTC", datetime(2026, 3, 28, 12, tzinfo=UTC), "02:30"),
    ],
)
def test_a_night_in_which_the_clocks_change_has_one_run(
    cron: str, timezone: str, noon_before: datetime, clock: str | None
) -> None:
    from zoneinfo import ZoneInfo

    runs = due(cron, timezone, noon_before, days=3)
    assert len(runs) == 3
    local = [run.astimezone(ZoneInfo(timezone)) for run in runs]
    minute, hour = (int(part) for part in cron.split()[:2])
    assert [(time.hour, time.minute) for time in local[1:]] == [(hour, minute)] * 2, "the nights after as ever"
    if clock:
        assert f"{local[0]:%H:%M}" == clock
        assert local[0].fold == 0, "of a time that comes twice, the first"
    else:  # a time that does not exist: an hour off, before or after by the server's Python
        assert abs((local[0].hour * 60 + local[0].minute) - (hour * 60 + minute)) % (22 * 60) == 60
        assert runs[1] - runs[0] in (timedelta(hours=24), timedelta(hours=22), timedelta(hours=23))


def test_every_hour_skips_the_one_that_comes_twice_and_the_one_that_is_missing() -> None:
    spring = due("0 * * * *", "Europe/Berlin", datetime(2026, 3, 28, 23, tzinfo=UTC), 1)
    assert [time.hour for time in spring] == [23, *range(23)]
    autumn = due("0 * * * *", "Europe/Berlin", datetime(2026, 10, 24, 22, tzinfo=UTC), 1)
    assert [time.hour for time in autumn] == [22, 23, 0, *range(2, 22)], "a pause of two hours"


def test_the_shortest_night_does_not_put_off_a_nightly_retraining() -> None:
    """23 h lie between its runs, and the minimum interval is 24 h."""
    evening, morning, *_ = due("0 3 * * *", "Europe/Berlin", datetime(2026, 3, 27, 12, tzinfo=UTC), days=3)[:2]
    assert morning - evening == timedelta(hours=23)
    last = Retraining(
        began_at=evening.isoformat(), due_at=evening.isoformat(), ended_at=evening.isoformat(), status="done"
    )
    facts = Facts(now=morning.isoformat(), due=morning.isoformat(), hours=1.0, done=(last,))
    assert judge(facts, RetrainConfig()).retrain
