"""`stemline history` and `stemline rollback` on a real registry, as people and scripts read them."""

import json
from pathlib import Path

import pytest

from flows.__main__ import main
from pipelines import registry
from pipelines.registry import RegistryConfig
from tests.pipelines.registry.test_registration import make_candidate


@pytest.mark.slow
def test_what_was_promoted_is_listed_and_rolled_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, config = str(tmp_path / "store"), RegistryConfig()
    where = f"store.root={store}"
    assert main(["history", where]) == 0
    assert "No version of stemline was promoted yet." in capsys.readouterr().out
    assert main(["rollback", where]) == 2
    assert "nothing to roll back" in capsys.readouterr().err
    for seed in (0, 1):
        candidate = make_candidate(tmp_path / str(seed), run_key=f"run{seed}", seed=seed)
        version = registry.register(config, candidate, store=store)
        registry.promote(version, {"promote": True, "reason": f"{seed + 0.25:+.2f} dB nSDR"}, store=store)

    assert main(["rollback", "--json", where]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["version"], answer["before"], answer["uri"]) == ("1", "2", "models:/stemline/1")
    assert main(["history", where]) == 0
    shown = capsys.readouterr().out
    assert shown.index("rolled back from version 2") < shown.index("+1.25 dB nSDR") < shown.index("+0.25 dB nSDR")
    assert main(["history", "--json", where]) == 0
    listed = json.loads(capsys.readouterr().out)["promotions"]
    assert [(entry["kind"], entry["version"]) for entry in listed] == [
        ("promotion", "1"), ("promotion", "2"), ("rollback", "1"),
    ]  # fmt: skip
    never = registry.register(config, make_candidate(tmp_path / "2", run_key="run2", seed=2), store=store)
    to_it = ["rollback", "--to", never.version, where]
    assert main(to_it) == 2
    assert main([*to_it, "--force"]) == 2
    capsys.readouterr()
    assert main([*to_it, "--force", "--reason", "to hear it"]) == 0
    assert registry.champion(config, store=store).version == never.version  # type: ignore[union-attr]
    capsys.readouterr()
    assert main(["rollback", "--to", "7", where]) == 2
    assert "models:/stemline/7 does not exist" in capsys.readouterr().err
