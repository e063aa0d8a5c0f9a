"""What the first worker reports is shown, whenever it comes."""

from pipelines.runtime.progress import NullProgress
from pipelines.training.progress_actor import ProgressActor, ProgressPoller


class Shown(NullProgress):
    def __init__(self) -> None:
        self.steps = 0.0
        self.text = ""

    def advance(self, amount: float = 1.0) -> None:
        self.steps += amount

    def note(self, text: str) -> None:
        self.text = text


def test_the_last_report_is_shown_however_soon_the_end_comes() -> None:
    shown, actor = Shown(), ProgressActor()
    with ProgressPoller(shown, actor.read).running():
        actor.report(6, "valid nSDR 1.00 dB")
    assert (shown.steps, shown.text) == (6, "valid nSDR 1.00 dB")


def test_steps_that_are_done_again_are_shown_once() -> None:
    shown, actor = Shown(), ProgressActor()
    poller = ProgressPoller(shown, actor.read)
    for step in (4, 2, 3, 5):
        actor.report(step, "")
        poller.poll()
    poller.reach(6)
    poller.reach(0)
    assert shown.steps == 6


def test_an_actor_that_is_gone_ends_no_training() -> None:
    def lost() -> tuple[int, str]:
        raise TimeoutError("the actor died")

    shown = Shown()
    with ProgressPoller(shown, lost).running():
        pass
    assert shown.steps == 0
