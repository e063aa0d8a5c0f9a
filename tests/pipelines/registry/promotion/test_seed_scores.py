"""What trainings of one recipe scored is found in the registry, whatever else is there."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.registry import Candidate, RegistryConfig, scores_by_recipe
from tests.pipelines.registry.test_registration import CONFIG, make_candidate

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def trained(like: Candidate, key: str, *, seed: int, score: float, steps: int = 20, protocol: str = "p") -> Candidate:
    """The training `key` of a recipe, scored; no two have the same weights, as far as tags say."""
    return replace(
        like, run_key=key, config={"train": {"steps": steps, "seed": seed}}, scores={"test/nsdr/mean": score},
        lineage={"weights_digest": f"w{key}", "protocol": protocol, "scores_digest": f"s{key}{protocol}"},
    )  # fmt: skip


def test_trainings_that_differ_in_their_seed_alone_are_one_recipe(tmp_path: Path) -> None:
    store, made = str(tmp_path / "store"), make_candidate(tmp_path / "checkpoint")

    def found(**asked: str) -> list[list[float]]:
        told = {"protocol": "p", "metric": "test/nsdr/mean", **asked}
        return scores_by_recipe(CONFIG, store=store, **told)

    assert found() == []
    assert not Path(store).exists()  # nothing is made by looking
    for one in (
        trained(made, "a", seed=0, score=5.0),
        trained(made, "b", seed=1, score=5.5),
        trained(made, "c", seed=2, score=9.0, steps=40),
        trained(made, "d", seed=3, score=7.0, protocol="another"),
        replace(trained(made, "e", seed=4, score=8.0), config={"steps": 20}),
    ):
        registry.register(CONFIG, one, store=store)
    assert found() == [[5.0, 5.5]]
    assert found(but="wa") == []
    assert found(protocol="another") == []
    registry.register(CONFIG, trained(made, "d", seed=3, score=5.2), store=store)  # scored anew
    assert sorted(found()[0]) == [5.0, 5.2, 5.5]
    assert scores_by_recipe(RegistryConfig(name="other"), store=store, protocol="p", metric="test/nsdr/mean") == []
