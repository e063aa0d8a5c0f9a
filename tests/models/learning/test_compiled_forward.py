"""Training through torch's compiler: the same losses, one graph; without it where it fails or computes otherwise."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.learner_config import AugmentConfig, LearnerConfig, equal_part
from models.learning.compiled_forward import compile_in_place
from models.learning.learner import Learner
from models.networks.catalog import build
from models.rng import generator

pytestmark = pytest.mark.slow
SMALL = {"sources": ("a", "b"), "sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4}
PLAIN = AugmentConfig(shift_s=0.0, remix_group=1, remix_probability=0.0, scale_probability=0.0)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    """Nor are processes started that compile."""
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1):
        yield


def small(preset: str = "htdemucs-tiny", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(preset, **SMALL | options).train()


def batch(rows: int = 4) -> Tensor:
    return 0.1 * torch.randn(rows, 2, 2, 2000, generator=generator(1))


class Gated(nn.Module):
    """So small that the compiler takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        out: Tensor = self.narrow(nn.functional.glu(self.wide(mixture_BCT), dim=1))
        return out.unflatten(1, (2, 2))


@pytest.mark.parametrize("mode", ["on", "reduce-overhead"])
def test_a_compiled_training_has_the_losses_of_the_plain_one(mode: str) -> None:
    losses = []
    for chosen in ("off", mode):
        torch.manual_seed(0)
        learner = Learner(Gated(), LearnerConfig(augment=PLAIN), sample_rate=8000, compile_mode=chosen)
        losses.append([float(learner.step(batch(), step=step).loss) for step in range(3)])
        assert learner.compile_failure == ""
        assert (learner.model._compiled_call_impl is not None) == (chosen != "off")
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_what_the_compiler_gets_wrong_is_trained_without_it_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        return lambda *given: tuple(2 * out for out in graph(*given))

    monkeypatch.setattr(nn.Module, "compile", _with_backend(wrong))
    model = small(transformer_layers=1)
    expected = small(transformer_layers=1)(batch().sum(dim=1))
    with caplog.at_level(logging.WARNING):
        assert "differ" in compile_in_place(model, "on", batch().sum(dim=1), torch.float32)
    assert "train.compile=on: training goes on without the compiler" in caplog.text
    torch.testing.assert_close(model(batch().sum(dim=1)), expected)


def test_a_compiler_that_fails_is_left_out_and_random_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise OSError("no C++ compiler here")

    monkeypatch.setattr(nn.Module, "compile", _with_backend(failing))
    learner = Learner(
        small(dropout=0.1), LearnerConfig(augment=PLAIN), sample_rate=8000, compile_mode="reduce-overhead"
    )
    plain = Learner(small(dropout=0.1), LearnerConfig(augment=PLAIN), sample_rate=8000)
    losses = []
    for one in (learner, plain):
        torch.manual_seed(3)
        losses.append(float(one.step(batch(), step=0).loss))
    assert "no C++ compiler here" in learner.compile_failure
    assert losses[0] == losses[1]


def test_noise_of_dropout_is_no_reason_to_train_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", _with_backend("eager"))
    assert compile_in_place(small(dropout=0.3), "on", batch().sum(dim=1), torch.float32) == ""
    assert compile_in_place(small(), "off", batch().sum(dim=1), torch.float32) == ""


@pytest.mark.parametrize("options", [{}, {"dropout": 0.02, "attention_dropout": 0.02}])
def test_ht_demucs_trains_as_one_graph_without_breaks_compiled_once(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(nn.Module, "compile", _with_backend(counter, fullgraph=True))
    config = LearnerConfig(augment=PLAIN, trim_loss_drop=0.5, trim_loss_group=2, trim_loss_after=0)
    # 12 rows in parts of at most 8: of 6, since parts of 8 and 4 would be two shapes.
    learner = Learner(small(**options), config, sample_rate=8000, rows_at_once=8, compile_mode="on")
    for step in range(2):
        learner.step(batch(12), step=step)
    assert learner.compile_failure == ""
    assert counter.frame_count == 1


def test_parts_are_equal_whole_groups_and_as_large_as_is_allowed() -> None:
    assert [equal_part(32, limit) for limit in (0, 4, 12, 31, 32, 40)] == [32, 4, 8, 16, 32, 32]
    assert equal_part(24, 16, 8) == 8
    assert equal_part(7, 4) == 1
    for rows in range(1, 40):
        for limit in range(1, 40):
            size = equal_part(rows, limit)
            assert size <= max(limit, 1)
            assert rows % size == 0


def _with_backend(backend: Any, **options: Any) -> Any:
    """`nn.Module.compile` by another backend than the default, which takes half a minute."""
    compile_it = nn.Module.compile

    def compiled(self: nn.Module, *, mode: str | None, dynamic: bool) -> None:
        compile_it(self, backend=backend, dynamic=dynamic, **options)

    return compiled
