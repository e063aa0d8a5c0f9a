"""The promotion log in real books: who was champion after whom, two at once, hands that meddle, and the way back."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.errors import InputError
from pipelines import registry
from pipelines.registry import Candidate, ModelVersion, RegistryConfig
from pipelines.registry.promotion import promotion_log
from pipelines.registry.promotion.promotion_log import Promotion, line_of_champions
from tests.pipelines.kills import way_back
from tests.pipelines.registry.test_registration import CONFIG, client, make_candidate

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_candidate(folder / str(seed), run_key=f"run{seed}", seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def registered_once(
    candidates: list[Candidate], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[ModelVersion]]:
    store = str(tmp_path_factory.mktemp("registered") / "store")
    return store, [registry.register(CONFIG, candidate, store=store) for candidate in candidates]


@pytest.fixture
def registered(registered_once: tuple[str, list[ModelVersion]]) -> Iterator[tuple[str, list[ModelVersion]]]:
    """None of them promoted, whatever the test before has done."""
    bring_back = way_back(registered_once[0])
    yield registered_once
    bring_back()


def promote(version: ModelVersion, store: str, reason: str = "better") -> ModelVersion:
    return registry.promote(version, {"promote": True, "reason": reason}, store=store)


def aliases(store: str) -> dict[str, str]:
    found = client(store).get_registered_model(CONFIG.name).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_the_log_tells_who_followed_whom_and_a_rollback_goes_back_step_by_step(
    registered: tuple[str, list[ModelVersion]],
) -> None:
    store, versions = registered
    assert registry.history(CONFIG, store=store) == []
    assert aliases(store) == {"candidate": "3"}
    for version in versions:
        promote(version, store, reason=f"better, says {version.version}")
    assert aliases(store) == {"champion": "3", "previous": "2"}
    done = registry.history(CONFIG, store=store)
    assert [(entry.number, entry.kind, entry.version, entry.before) for entry in done] == [
        (1, "promotion", "1", ""), (2, "promotion", "2", "1"), (3, "promotion", "3", "2"),
    ]  # fmt: skip
    assert done[0].reason == "better, says 1"

    back = registry.rollback(CONFIG, store=store)
    assert (back.kind, back.version, back.before) == ("rollback", "2", "3")
    assert aliases(store) == {"champion": "2", "previous": "1"}
    present = registry.champion(CONFIG, store=store)
    assert present is not None
    assert present.version == "2"
    registry.rollback(CONFIG, store=store)
    assert aliases(store) == {"champion": "1"}
    with pytest.raises(InputError, match="no champion before the present one; `stemline rollback --to N --force"):
        registry.rollback(CONFIG, store=store)
    assert registry.rollback(CONFIG, store=store, to="3").version == "3"
    assert aliases(store) == {"champion": "3", "previous": "1"}
    with pytest.raises(InputError, match="is the champion already"):
        registry.rollback(CONFIG, store=store, to="3")
    assert [entry.number for entry in registry.history(CONFIG, store=store)] == [1, 2, 3, 4, 5, 6]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    registered: tuple[str, list[ModelVersion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (first, second, _) = registered
    claim = promotion_log._claim

    def overtaken(*arguments: Any, **options: Any) -> Any:
        """The other process claims between our look at the log and our claim."""
        monkeypatch.setattr(promotion_log, "_claim", claim)
        promote(second, store)
        return claim(*arguments, **options)

    monkeypatch.setattr(promotion_log, "_claim", overtaken)
    with pytest.raises(
        InputError, match=r"another promotion to version \d of stemline came before this promotion: run"
    ):
        promote(first, store)
    assert aliases(store)["champion"] == second.version
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == [second.version]
    promote(first, store)  # the next try goes through
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == [second.version, first.version]


def test_the_loser_of_two_rollbacks_hears_about_rollbacks(
    registered: tuple[str, list[ModelVersion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, versions = registered
    for version in versions:
        promote(version, store)
    claim = promotion_log._claim

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(promotion_log, "_claim", claim)
        registry.rollback(CONFIG, store=store, to=versions[0].version)
        return claim(*arguments, **options)

    monkeypatch.setattr(promotion_log, "_claim", overtaken)
    with pytest.raises(InputError) as told:
        registry.rollback(CONFIG, store=store)
    first, second = versions[0].version, versions[1].version
    said = f"another rollback to version {first} of stemline came before this rollback: `stemline history` says"
    assert str(told.value).startswith(said)
    assert f"`stemline rollback --to {second}` still makes it {second}" in str(told.value)
    assert "candidate" not in str(told.value)
    assert aliases(store)["champion"] == first


def test_a_version_that_never_was_the_champion_is_rolled_back_to_only_with_a_reason(
    registered: tuple[str, list[ModelVersion]],
) -> None:
    store, (first, second, _) = registered
    promote(first, store)
    with pytest.raises(InputError, match=rf"`stemline rollback --to {second.version} --force --reason TEXT`"):
        registry.rollback(CONFIG, store=store, to=second.version)
    entry = registry.rollback(CONFIG, store=store, to=second.version, reason="the label's own master")
    assert (entry.kind, entry.version, entry.before) == ("rollback", second.version, first.version)
    assert registry.history(CONFIG, store=store)[-1].reason.endswith(": the label's own master")
    assert aliases(store)["champion"] == second.version


def test_a_decision_about_another_champion_moves_nothing(tmp_path: Path, candidates: list[Candidate]) -> None:
    store = str(tmp_path / "store")
    told = [
        Candidate(
            run_key=each.run_key, checkpoint=each.checkpoint, dataset=each.dataset, config={},
            lineage={"weights_digest": f"weights {place}"},
        )
        for place, each in enumerate(candidates)
    ]  # fmt: skip
    first, second, third = (registry.register(CONFIG, each, store=store) for each in told)
    promote(first, store)
    decision = {"promote": True, "reason": "better", "champion_digest": "weights 0"}
    registry.promote(second, decision, store=store)
    with pytest.raises(InputError, match="version 2 became the champion of stemline after the gate had compared"):
        registry.promote(third, decision, store=store)
    with pytest.raises(InputError, match="version 2 became the champion"):
        registry.promote(third, {**decision, "champion_digest": ""}, store=store)
    assert aliases(store)["champion"] == second.version


def test_a_promotion_that_was_killed_is_finished_by_itself_and_passed_over_by_others(
    registered: tuple[str, list[ModelVersion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (first, second, third) = registered
    promote(first, store)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def killed(version: ModelVersion, call: str) -> None:
        import mlflow

        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, call, die)
            with pytest.raises(KeyboardInterrupt):
                promote(version, store)

    killed(second, "set_registered_model_alias")
    assert aliases(store)["champion"] == first.version
    with pytest.raises(InputError, match=r"another promotion to version 2 began \d+ s ago; in a minute"):
        promote(third, store)
    promote(second, store)
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == ["1", "2"]
    killed(third, "set_registered_model_alias")
    monkeypatch.setattr(promotion_log, "_AT_WORK_S", 0.0)
    promote(first, store)
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == ["1", "2", "1"]
    # Killed after the alias moved, before the entry was marked.
    store_client = client(store)
    store_client.delete_model_version_tag(f"{CONFIG.name}-promotions", "4", "state")
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == ["1", "2", "1"]


def test_a_rollback_after_a_promotion_that_was_killed_skips_no_champion(
    registered: tuple[str, list[ModelVersion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the alias had moved, before the entry was marked: its champion counts, and so do all before it."""
    store, (first, second, third) = registered
    for version in (first, second, third):
        promote(version, store)
    client(store).delete_model_version_tag(f"{CONFIG.name}-promotions", "3", "state")
    assert [entry.number for entry in registry.history(CONFIG, store=store)] == [1, 2, 3]
    monkeypatch.setattr(promotion_log, "_AT_WORK_S", 0.0)
    back = registry.rollback(CONFIG, store=store)
    assert (back.version, back.before) == ("2", "3")
    assert aliases(store) == {"champion": "2", "previous": "1"}
    assert [entry.version for entry in registry.history(CONFIG, store=store)] == ["1", "2", "3", "2"]


def test_what_was_done_is_all_that_is_marked_and_the_one_entry_whose_alias_has_moved() -> None:
    def row(number: int, version: str, state: str) -> Any:
        told = {"kind": "promotion", "version": version, "before": "", "reason": "", "at": ""}
        tags = {"entry": json.dumps(told)} | ({"state": state} if state else {})
        return SimpleNamespace(version=str(number), tags=tags)

    rows = (row(1, "4", "done"), row(2, "5", "done"), row(3, "6", ""), row(4, "7", "done"), row(5, "8", ""))
    for champion, numbers in (("8", [1, 2, 4, 5]), ("7", [1, 2, 4]), ("6", [1, 2, 4])):
        seen = promotion_log.Snapshot(name="a", rows=rows, aliases={"champion": champion})
        assert [entry.number for entry in seen.done] == numbers


def test_an_alias_that_was_moved_or_lost_by_hand_is_named_and_settled(
    registered: tuple[str, list[ModelVersion]],
) -> None:
    store, (first, second, third) = registered
    promote(first, store)
    promote(second, store)
    books = client(store)
    books.set_registered_model_alias(CONFIG.name, "champion", third.version)
    with pytest.raises(
        InputError, match="is on version 3, and the promotion log says version 2: it was moved manually"
    ):
        promote(first, store)
    registry.rollback(CONFIG, store=store, to="3")
    promote(first, store)
    books.delete_model_version(CONFIG.name, first.version)
    with pytest.raises(InputError, match=r"is gone, perhaps with its version.* rollback --to 3"):
        registry.champion(CONFIG, store=store)
    assert registry.rollback(CONFIG, store=store, to="3").version == "3"
    assert aliases(store)["champion"] == "3"


def test_files_that_were_changed_are_not_rolled_back_to(registered: tuple[str, list[ModelVersion]]) -> None:
    store, (first, second, _) = registered
    promote(first, store)
    promote(second, store)
    weights = registry.fetch(first.uri, store=store) / "weights.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + b"?")
        with pytest.raises(InputError, match="was changed after it was registered"):
            registry.rollback(CONFIG, store=store)
    finally:
        weights.write_bytes(whole)
    assert aliases(store)["champion"] == second.version


def test_nothing_to_roll_back_in_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to roll back"):
        registry.rollback(RegistryConfig(), store=str(tmp_path))


def test_the_line_of_champions_forgets_those_that_were_rolled_back() -> None:
    def entry(number: int, kind: Any, version: str, before: str) -> Promotion:
        return Promotion(number=number, kind=kind, version=version, before=before, reason="", at="")

    done = [entry(1, "promotion", "4", "2"), entry(2, "promotion", "5", "4"), entry(3, "rollback", "4", "5")]
    assert line_of_champions(done) == ["2", "4"]
    assert line_of_champions([*done, entry(4, "promotion", "6", "4")]) == ["2", "4", "6"]
    assert line_of_champions([*done, entry(4, "rollback", "9", "4")]) == ["2", "4", "9"]
