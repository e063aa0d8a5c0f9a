"""What a training says of itself while it runs; `test_train.py` has the curve that it writes."""

from pipelines.training.loss_curve import _in_words

POINT = {"loss": 0.21344, "learning_rate": 3e-4}
SPEED = {"rows_per_s": 12.4, "stall": 0.021, "memory_gib": 2.13}


def test_a_point_says_loss_speed_rate_memory_and_stall() -> None:
    assert _in_words(POINT, SPEED, batch_size=4) == "loss 0.2134 · 3.1 steps/s · lr 3.0e-04 · 2.1 GiB · stall 2%"


def test_what_is_there_only_sometimes_is_said_only_then() -> None:
    assert _in_words(POINT, {}, batch_size=4) == "loss 0.2134 · lr 3.0e-04"
    more = {**SPEED, "rows_per_s": 0.1, "upload_stall": 0.5, "tflops": 101.25}
    slow = _in_words({**POINT, "skipped": 2.0}, more, batch_size=4)
    assert slow == (
        "loss 0.2134 · 40 s/step · lr 3.0e-04 · 2.1 GiB · stall 2% · upload stall 50% · 101.2 TFLOP/s · 2 skipped"
    )
