from collections.abc import Callable, Iterator

import pytest

from datasets.store import outages

AWAY = "When reading key 'k': AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"
BUSY = "When reading key 'k': AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Time passes while somebody sleeps, and only then; the store has not answered yet."""
    now_s = [0.0]
    monkeypatch.setattr(outages.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(outages.time, "sleep", lambda seconds: now_s.__setitem__(0, now_s[0] + seconds))
    before = outages._ANSWERED.is_set()
    outages._ANSWERED.clear()
    yield now_s
    (outages._ANSWERED.set if before else outages._ANSWERED.clear)()


def away_until(second: float, now_s: list[float], said: str = AWAY) -> Callable[[], str]:
    def ask() -> str:
        if now_s[0] < second:
            raise OSError(said)
        return "here"

    return ask


@pytest.mark.parametrize("said", [AWAY, BUSY])
def test_a_store_that_answered_before_is_waited_for_through_more_than_a_minute(said: str, clock: list[float]) -> None:
    assert outages.persistently(lambda: 1) == 1
    assert outages.persistently(away_until(90.0, clock, said)) == "here"
    assert 90.0 <= clock[0] < 100.0


def test_a_store_that_never_answered_is_given_up_with_the_first_error(clock: list[float]) -> None:
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        outages.persistently(away_until(1.0, clock))
    assert clock[0] == 0.0


def test_a_store_that_stays_away_is_given_up_in_the_end(clock: list[float]) -> None:
    outages.persistently(lambda: 1)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        outages.persistently(away_until(1e9, clock))
    assert outages.AWAY_S <= clock[0] < outages.AWAY_S + 10


@pytest.mark.parametrize("said", ["AWS Error ACCESS_DENIED during PutObject", "AWS Error NO_SUCH_BUCKET"])
def test_a_refusal_is_not_asked_for_again(said: str, clock: list[float]) -> None:
    outages.persistently(lambda: 1)
    with pytest.raises(OSError, match=said):
        outages.persistently(away_until(1.0, clock, said))
    assert clock[0] == 0.0
