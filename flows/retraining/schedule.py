"""When the retraining is due: a cron line and its time zone."""

import difflib
import zoneinfo
from datetime import UTC, datetime
from typing import Any

from datasets.errors import InputError

OFF = "off"
DEFAULT_ZONE = "UTC"


def check_cron(cron: str) -> None:
    """InputError unless it is a time that comes, in five fields or as "@daily"; a sixth would be seconds."""
    from prefect._vendor.croniter.croniter import CroniterBadDateError, croniter
    from prefect.client.schemas.schedules import CronSchedule

    if cron in ("", OFF):
        return
    try:
        CronSchedule(cron=cron)
        if not cron.startswith("@") and len(cron.split()) != 5:
            raise ValueError("other than five fields")
        times: Any = croniter(cron, datetime.now(UTC))  # type: ignore[no-untyped-call]
        times.get_next()
    except CroniterBadDateError as error:
        raise InputError(f"--cron must be a time that comes, got {cron!r}, which never does") from error
    except ValueError as error:
        raise InputError(
            f"--cron must be five fields such as '0 3 * * *' (3:00 every night), @daily, or off, got {cron!r}; "
            "--timezone takes the time zone"
        ) from error


def check_timezone(timezone: str, *, cron: str) -> None:
    """InputError unless it is the name of a time zone, and the schedule is set too: there is no zone without one."""
    if not timezone:
        return
    names = zoneinfo.available_timezones()
    if timezone not in names:
        by_lower_case = {name.lower(): name for name in sorted(names)}
        close = difflib.get_close_matches(timezone.lower(), by_lower_case, n=1)
        meant = f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""
        raise InputError(
            f"--timezone must be a name of the IANA database such as 'Europe/Berlin' or 'UTC', got {timezone!r}{meant}"
        )
    if cron in ("", OFF):
        raise InputError(
            f"--timezone needs --cron, the schedule that it is for, got {timezone!r} "
            f"{'with --cron off' if cron else 'without'}; for example --cron '0 3 * * *' --timezone {timezone}"
        )
