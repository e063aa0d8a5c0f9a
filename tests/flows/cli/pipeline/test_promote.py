"""`stemline promote` on a real registry: past the gate by name, and not at all what was rolled back from."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.store.strict_json import dumps
from flows import config as door
from flows import gate_decision, train_model
from flows.__main__ import main
from flows.config import load
from flows.console import notifications
from pipelines import registry
from pipelines.evaluation.gate import GateDecision
from pipelines.registry import RegistryConfig
from tests.pipelines.registry.test_registration import make_candidate
from tests.web_receiver import receiver


@pytest.mark.slow
def test_a_version_is_promoted_by_name_with_a_reason_that_history_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, config = str(tmp_path / "store"), RegistryConfig()
    where = f"store.root={store}"
    by_name = ["promote", "--version", "2", "--force", "--reason", "the songs were mislabelled"]
    assert main([*by_name, where]) == 2
    assert "there is nothing to promote" in capsys.readouterr().err
    versions = []
    for seed in (0, 1):
        candidate = make_candidate(tmp_path / str(seed), run_key=f"run{seed}", seed=seed)
        versions.append(registry.register(config, candidate, store=store))
        registry.promote(versions[-1], {"promote": True, "reason": "better"}, store=store)
    assert main(["rollback", where]) == 0
    registry.promote(versions[1], {"promote": True, "reason": "better"}, store=store)
    capsys.readouterr()
    assert main(["history", where]) == 0
    assert "Rolled back from version 2: promoted again only with `stemline promote" in capsys.readouterr().out
    for missing in (["--version", "2"], ["--force"], ["--version", "2", "--force", "--reason", " "]):
        assert main(["promote", *missing, where]) == 2
        assert "give all of --version N, --force and --reason TEXT" in capsys.readouterr().err
    assert main(["promote", "--version", "7", "--force", "--reason", "x", where]) == 2
    assert "models:/stemline/7 does not exist" in capsys.readouterr().err
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        assert main([*by_name, "--json", where]) == 0
        told = json.loads(capsys.readouterr().out)
        assert posted[0]["title"] == "stemline stemline: new champion"
        assert "models:/stemline/2 is the champion now: past the gate: the songs were mis" in posted[0]["message"]
        monkeypatch.setenv(notifications.ADDRESSES, "json://127.0.0.1:9")
        assert main(["rollback", where]) == 0  # though nobody answers
        console_output = capsys.readouterr().err
        assert "is version 1 again, instead of 2" in console_output
        assert "not told: json:// (1): OSError" in console_output
        monkeypatch.delenv(notifications.ADDRESSES)
        assert main([*by_name, where]) == 0
        capsys.readouterr()
    assert (told["kind"], told["version"], told["before"]) == ("forced", "2", "1")
    assert main(["history", "--json", where]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["promotions"][-1]["reason"] == "the songs were mislabelled"
    assert listed["rolled_back"] == []
    present = registry.champion(config, store=store)
    assert present is not None
    kept = registry.decision_of(present, store=store)
    assert kept is not None
    decision = door.parse(GateDecision, dumps(kept))
    assert (decision.promote, decision.reason) == (True, "the songs were mislabelled")
    assert main(["lineage", "models:/stemline/2", where]) == 0
    assert "no: Version 2 was rolled back from" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_gates_yes_is_a_no_for_what_was_rolled_back_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `run` and every schedule decide, before a person is asked; only what the gate itself says is given here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load("smoke", [f"store.root={tmp_path / 'store'}"])
    checkpoints = [make_candidate(tmp_path / str(seed), run_key=f"run{seed}", seed=seed) for seed in (0, 1)]
    for made in checkpoints:
        version = registry.register(config.registry, made, store=config.store.root)
        registry.promote(version, {"promote": True, "reason": "better"}, store=config.store.root)
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        third = make_candidate(tmp_path / "3", run_key="run3", seed=3)
        version = registry.register(config.registry, third, store=config.store.root)
        no = GateDecision(promote=False, reason="0.2 dB worse.", improvement=5.0, checks=(), num_songs=8)
        for _ in range(2):  # the same decision again is told once
            assert train_model.promote.fn(config, version, no).alias == ""
        (message,) = posted
        assert message["message"].startswith(
            "models:/stemline/3 was not promoted: 0.2 dB worse.\nstemline card models:/s"
        )
        monkeypatch.delenv(notifications.ADDRESSES)

    def decided(checkpoint: str) -> GateDecision:
        yes = GateDecision(promote=True, reason="better", improvement=5.0, checks=(), num_songs=8)
        monkeypatch.setattr(gate_decision, "_gate_decision", lambda *_: yes)
        trained: Any = SimpleNamespace(checkpoint=checkpoint, model_digest="")
        nothing: Any = None
        return gate_decision.decide(config, nothing, trained, nothing, nothing)

    assert decided(checkpoints[1].checkpoint).promote
    registry.rollback(config.registry, store=config.store.root)
    refused = decided(checkpoints[1].checkpoint)
    assert not refused.promote
    assert "Version 2 was rolled back from" in refused.reason
    assert refused.checks[-1].rule == "rollback"
    assert decided(checkpoints[0].checkpoint).promote


def test_people_are_told_of_a_decision_though_the_page_of_the_version_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun writes the page; it finds the decision, of which it would tell nobody."""
    for name in ("MLFLOW_TRACKING_URI", notifications.PREFECT):
        monkeypatch.delenv(name, raising=False)

    def broken(*_: Any) -> None:
        raise OSError("MLflow does not answer")

    known: Any = iter([(), (SimpleNamespace(reason="0.2 dB worse."),)])
    monkeypatch.setattr(registry, "lineage", lambda *_, **__: SimpleNamespace(decisions=next(known)))
    monkeypatch.setattr(registry, "promote", lambda version, *_, **__: version)
    monkeypatch.setattr(train_model, "describe_version", broken)
    version = registry.ModelVersion(name="stemline", version="3", run_id="r", run_key="k", digest="d")
    no = GateDecision(promote=False, reason="0.2 dB worse.", improvement=5.0, checks=(), num_songs=8)
    with receiver() as (address, posted):
        monkeypatch.setenv(notifications.ADDRESSES, f"json://{address}")
        with pytest.raises(OSError, match="MLflow does not answer"):
            train_model.promote.fn(load("smoke", [f"store.root={tmp_path}"]), version, no)
    assert len(posted) == 1
