"""A promotion is one act: killed at any call it is completed by the same command, and a rollback is not undone."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from pipelines import registry
from pipelines.registry import ModelVersion, RegistryConfig
from pipelines.registry.bundle import checkpoint_digest
from pipelines.registry.promotion import decision_records, promotion_log
from pipelines.registry.promotion.promotion_log import Promotion, rolled_back
from tests.pipelines.kills import dying, way_back
from tests.pipelines.registry.test_registration import CONFIG, client, make_candidate

pytestmark = pytest.mark.slow

YES = {"promote": True, "reason": "better"}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Books:
    """A real registry; of its versions only the first is registered whole, the others are its files, a little changed.

    So there may be many of them.
    """

    def __init__(self, folder: Path, first: ModelVersion) -> None:
        self.store, self.folder, self.first = str(folder / "store"), folder, first
        self.client = client(self.store)
        self.digests = {1: self.first.digest}

    def version(self, number: int, *, like: int = 0, **tags: str) -> ModelVersion:
        """The version of this number, made up to it; with the weights of another where one is named."""
        for made in range(len(self.digests) + 1, number + 1):
            files = self.folder / f"of-{like or made}" / "artifacts" / "checkpoint"
            if not files.is_dir():
                shutil.copytree(self.folder / "1", files)
                with (files / "config.json").open("a") as config:
                    config.write("\n" * ((like or made) - 1))
            self.digests[made] = checkpoint_digest(files)
            run = self.client.get_run(self.first.run_id).info
            model = self.client.create_logged_model(run.experiment_id, name="separator", source_run_id=run.run_id)
            self.client.log_model_artifacts(model.model_id, str(files.parent.parent))
            self.client.finalize_logged_model(model.model_id, "READY")
            told = {"run_key": f"run{made}", "checkpoint_digest": self.digests[made], **tags}
            self.client.create_model_version(
                "stemline", f"models:/{model.model_id}", run_id=run.run_id, model_id=model.model_id, tags=told
            )
            self.client.set_registered_model_alias("stemline", "candidate", str(made))
        return replace(self.first, version=str(number), run_key=f"run{number}", digest=self.digests[number])

    def promote(self, version: ModelVersion, **decision: Any) -> ModelVersion:
        return registry.promote(version, {**YES, **decision}, store=self.store)

    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model("stemline").aliases
        return {alias: str(version) for alias, version in found.items()}

    def tags(self, number: int) -> dict[str, str]:
        return dict(self.client.get_model_version("stemline", str(number)).tags)

    def champion(self) -> str:
        present = registry.champion(CONFIG, store=self.store)
        return present.version if present else ""

    def history(self) -> list[Promotion]:
        return registry.history(CONFIG, store=self.store)

    def unfinished(self) -> int:
        rows = self.client.search_model_versions("name = 'stemline-promotions'")
        return sum("state" not in row.tags for row in rows)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelVersion]:
    folder = tmp_path_factory.mktemp("registered")
    return folder, registry.register(CONFIG, make_candidate(folder / "1"), store=str(folder / "store"))


@pytest.fixture
def books(registered: tuple[Path, ModelVersion]) -> Iterator[Books]:
    """With the first version alone, whatever the test before has done."""
    books = Books(*registered)
    bring_back = way_back(books.store)
    yield books
    bring_back()


def test_a_promotion_killed_at_any_call_is_completed_by_the_same(books: Books) -> None:
    books.promote(books.first)
    version, bring_back, at, died = books.version(2), way_back(books.store), 0, True
    while died:
        at += 1
        bring_back()
        with dying(at) as life:
            books.promote(version, reason=f"better, says {at}")
        died = life.dead
        promoted = books.promote(version, reason=f"better, says {at}")
        assert promoted.alias == "champion", at
        assert books.aliases() == {"champion": "2", "previous": "1"}, at
        assert [entry.version for entry in books.history()] == ["1", "2"], at
        last = books.history()[-1]
        assert (last.before, last.reason) == ("1", f"better, says {at}")
        tags = books.tags(2)
        assert tags["promoted"] == "yes", at
        assert tags["decision"] == last.decision, at
        assert registry.decision_of(promoted, store=books.store) == {**YES, "reason": f"better, says {at}"}
        assert books.unfinished() == 0, at
    assert at > 8


def test_a_rollback_killed_at_any_call_goes_back_once(books: Books) -> None:
    for number in (1, 2, 3):
        books.promote(books.version(number))
    bring_back, at, died = way_back(books.store), 0, True
    while died:
        at += 1
        bring_back()
        with dying(at) as life:
            registry.rollback(CONFIG, store=books.store)
        died = life.dead
        if died:
            done = registry.rollback(CONFIG, store=books.store)
            assert (done.version, done.before) == ("2", "3"), at
        assert books.aliases() == {"champion": "2", "previous": "1"}, at
        assert [entry.version for entry in books.history()] == ["1", "2", "3", "2"], at
        assert books.unfinished() == 0, at
    assert at > 3


def test_what_was_rolled_back_from_is_promoted_by_name_alone(books: Books) -> None:
    for number in (1, 2, 3):
        books.promote(books.version(number))
    registry.rollback(CONFIG, store=books.store, to="1")
    for number in (2, 3):  # 2 was passed over on the way back
        refused = books.promote(books.version(number))
        assert refused.alias == ""
        last = registry.decisions_of(refused, store=books.store)[-1]
        assert last["promote"] is False
        assert "was rolled back from on" in last["reason"]
        assert f"`stemline promote --version {number} --force --reason TEXT`" in last["reason"]
        assert books.tags(number)["promoted"] == "yes"  # it was, once
    assert books.champion() == "1"
    same = books.version(4, like=3)  # registered anew
    assert books.promote(same).alias == ""
    like_the_champion = books.version(5, like=1)
    assert books.promote(like_the_champion).alias == "champion"  # what is champion was not left
    assert books.promote(books.version(6)).alias == "champion"  # another model is free
    made, entry = registry.promote_by_name(CONFIG, "3", {**YES, "reason": "I say so"}, store=books.store)
    assert (made.version, entry.kind, entry.reason, entry.before) == ("3", "forced", "I say so", "6")
    assert books.aliases() == {"champion": "3", "previous": "6"}
    with pytest.raises(InputError, match="version 3 of stemline is the champion already"):
        registry.promote_by_name(CONFIG, "3", YES, store=books.store)
    registry.rollback(CONFIG, store=books.store)
    assert books.champion() == "6"
    assert books.promote(books.version(3)).alias == ""


def test_the_same_weights_stay_rolled_back_when_their_version_is_deleted(books: Books) -> None:
    books.promote(books.first)
    books.promote(books.version(2))
    registry.rollback(CONFIG, store=books.store)
    books.client.delete_model_version("stemline", "2")
    tags = {"checkpoint_digest": books.digests[2], "weights_digest": ""}
    assert books.promote(books.version(3, like=2)).alias == ""
    assert "Version 2 was rolled back from" in registry.rolled_back(CONFIG, tags, store=books.store)
    assert registry.rolled_back(CONFIG, {"checkpoint_digest": "c9"}, store=books.store) == ""
    assert registry.rolled_back(RegistryConfig(name="other"), tags, store=books.store) == ""


def test_a_rollback_goes_to_champions_of_before_only(books: Books) -> None:
    books.promote(books.first)
    refused = books.version(2)
    registry.promote(refused, {"promote": False, "reason": "It loses 2.00 dB."}, store=books.store)
    books.version(3)
    with pytest.raises(
        InputError, match=r"version 2 .* was never the champion, and the gate refused it: It loses 2.00"
    ):
        registry.rollback(CONFIG, store=books.store, to="2")
    with pytest.raises(InputError, match=r"version 3 .* the gate has not decided on it.*--force"):
        registry.rollback(CONFIG, store=books.store, to="3")
    assert books.champion() == "1"
    assert registry.promote_by_name(CONFIG, "2", YES, store=books.store)[0].version == "2"
    assert registry.rollback(CONFIG, store=books.store).version == "1"
    assert registry.rollback(CONFIG, store=books.store, to="2").version == "2"


def test_where_the_only_champion_is_deleted_another_is_chosen_by_name(books: Books) -> None:
    books.promote(books.first)
    second = books.version(2)
    books.client.delete_model_version("stemline", "1")
    for act in (lambda: books.promote(second), books.champion):
        with pytest.raises(InputError, match=r"is gone, .*promote --version N --force --reason TEXT"):
            act()
    made, entry = registry.promote_by_name(CONFIG, "2", YES, store=books.store)
    assert (made.alias, entry.before, books.aliases()) == ("champion", "", {"champion": "2"})
    assert books.promote(books.version(3)).alias == "champion"
    assert books.aliases() == {"champion": "3", "previous": "2"}


def test_of_two_at_once_one_wins_and_the_other_is_told_whatever_comes_between(books: Books) -> None:
    """Another process promotes, whole, before each call of ours in turn."""
    import mlflow

    books.promote(books.first)
    mine, other = books.version(2), books.version(3)
    for number in (1, 2, 3):
        books.client.set_model_version_tag("stemline", str(number), "weights_digest", f"w{number}")
    calls = {name: call for name, call in vars(mlflow.MlflowClient).items() if callable(call) and name[0] != "_"}
    bring_back, at, lost, won = way_back(books.store), 0, 0, 0
    while True:
        at += 1
        bring_back()
        count, errors = itertools.count(1), dict[str, InputError]()

        def promote(version: ModelVersion, *, errors: Any = errors) -> None:
            try:
                books.promote(version, champion_digest="w1")
            except InputError as error:
                errors[version.version] = error

        def between(call: Any, *, count: Any = count, promote: Any = promote, at: int = at) -> Any:
            def counted(*arguments: Any, **options: Any) -> Any:
                if next(count) == at:
                    promote(other)
                return call(*arguments, **options)

            return counted

        with pytest.MonkeyPatch.context() as patch:
            for name, call in calls.items():
                patch.setattr(mlflow.MlflowClient, name, between(call))
            promote(mine)
        if next(count) <= at:
            break  # ours was over before
        assert len(errors) == 1, at
        (loser,) = errors
        said = str(errors[loser])
        assert "run the same command again" in said or " s ago; in a minute" in said, at
        winner = mine if loser == other.version else other
        assert books.champion() == books.history()[-1].version == winner.version, at
        assert books.aliases()["previous"] == "1", at
        assert books.tags(int(loser)).get("promoted") != "yes", at
        assert books.unfinished() == 0, at
        lost, won = lost + (winner is other), won + (winner is mine)
    assert lost > 3
    assert won > 3


def test_a_refusal_of_mlflow_is_no_absence(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    books.promote(books.first)

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("no permission", error_code=7)

    asked: list[tuple[str, Callable[[], object]]] = [
        ("get_registered_model", lambda: registry.champion(CONFIG, store=books.store)),
        ("get_registered_model", lambda: registry.fetch(books.first.uri, store=books.store)),
        ("get_model_version", lambda: registry.fetch(books.first.uri, store=books.store)),
        ("search_model_versions", lambda: registry.versions(CONFIG, store=books.store)),
        ("search_model_versions", lambda: registry.history(CONFIG, store=books.store)),
        ("get_run", lambda: registry.lineage(books.first.uri, store=books.store)),
    ]
    for call, ask in asked:
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, call, refuse)
            with pytest.raises(InputError, match="refused, or went away"):
                ask()


def test_the_decision_of_an_older_stemline_is_read_and_survives_the_next(books: Books) -> None:
    older = '{"promote": true, "reason": "in other days", "improvement": "inf"}'
    books.client.set_model_version_tag("stemline", "1", "decision", older)
    books.client.set_model_version_tag("stemline", "1", "promoted", "yes")
    books.client.set_registered_model_alias("stemline", "champion", "1")
    found = registry.decision_of(books.first, store=books.store)
    assert found is not None
    assert found["reason"] == "in other days"
    assert registry.lineage("models:/stemline/1", store=books.store).decisions[0].reason == "in other days"
    books.promote(books.version(2))
    registry.promote(books.first, {"promote": False, "reason": "worse now"}, store=books.store)
    assert [told["reason"] for told in registry.decisions_of(books.first, store=books.store)] == [
        "in other days", "worse now",
    ]  # fmt: skip
    found = registry.decision_of(books.first, store=books.store)
    assert found is not None
    assert found["reason"] == "in other days"
    assert registry.rollback(CONFIG, store=books.store, to="1").version == "1"


def test_a_decision_that_is_longer_than_a_tag_is_kept_whole(books: Books) -> None:
    long = "much to say " * 20_000
    registry.promote(books.first, {"promote": False, "reason": long, "gains": list(range(5000))}, store=books.store)
    assert registry.decision_of(books.first, store=books.store) == {
        "promote": False, "reason": long, "gains": list(range(5000)),
    }  # fmt: skip
    assert max(len(text) for text in books.tags(1).values()) <= 5000
    books.promote(books.first, reason=long)
    assert len(books.history()[0].reason) <= 2000
    assert len(decision_records.notes(books.client.get_model_version("stemline", "1"))) == 2
    for folder in Path(books.store).rglob("decisions"):
        shutil.rmtree(folder)  # as in a store whose files were not copied: the tag has the gist
    told = registry.lineage("models:/stemline/1", store=books.store).decision
    assert told is not None
    assert told["promote"] is True
    assert told["reason"].startswith("much to say much to say")
    with pytest.raises(InputError, match=r"is gone: bring decisions/stemline/1/"):
        registry.decisions_of(books.first, store=books.store)


def test_a_version_whose_run_was_deleted_does_not_become_the_champion_by_any_way(books: Books) -> None:
    registry.promote(books.version(2), YES, store=books.store)
    third = books.version(3)
    registry.promote(third, YES, store=books.store)
    books.client.delete_run(books.first.run_id)  # of all of them, as this registry is made
    again = "its MLflow run was deleted. `mlflow runs restore --run-id"
    for becomes in (
        lambda: registry.promote(books.version(4), YES, store=books.store),
        lambda: registry.promote_by_name(CONFIG, "4", {"promote": True, "reason": "by hand"}, store=books.store),
        lambda: registry.rollback(CONFIG, store=books.store),
        lambda: registry.rollback(CONFIG, store=books.store, to="2", reason="by hand"),
    ):
        with pytest.raises(InputError, match=again):
            becomes()
    assert registry.promote(books.version(4), {"promote": False, "reason": "no"}, store=books.store).alias == ""
    found = registry.champion(CONFIG, store=books.store)
    assert found is not None
    assert found.version == "3"
    books.client.restore_run(books.first.run_id)
    assert registry.rollback(CONFIG, store=books.store).version == "2"


def test_the_versions_that_a_rollback_left() -> None:
    def log(*told: str) -> list[Promotion]:
        """Such as "p3" and "r2", from the champion of before."""
        done: list[Promotion] = []
        for place, word in enumerate(told):
            kind: Any = {"p": "promotion", "r": "rollback", "f": "forced"}[word[0]]
            before = done[-1].version if done else ""
            done.append(Promotion(number=place + 1, kind=kind, version=word[1:], before=before, reason="", at=""))
        return done

    assert set(rolled_back(log("p1", "p2"))) == set()
    assert set(rolled_back(log("p1", "p2", "p3", "r1"))) == {"2", "3"}
    assert set(rolled_back(log("p1", "p2", "p3", "r2", "r1"))) == {"2", "3"}
    assert set(rolled_back(log("p1", "p2", "r1", "f2"))) == set()
    assert set(rolled_back(log("p1", "p2", "r1", "p3"))) == {"2"}
    assert set(rolled_back(log("p1", "p2", "r1", "r2"))) == {"1"}
    assert promotion_log.line_of_champions(log("p1", "p2", "r1", "f2")) == ["1", "2"]
