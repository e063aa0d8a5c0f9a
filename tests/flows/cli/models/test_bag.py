"""`stemline bag`: each source from the model that was named for it, read like any other model."""

import re
from pathlib import Path

import pytest
import torch

from flows.__main__ import main
from models.inference.separate import separate
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.bit_packing import uniform_packing
from models.weights.loading import load_model


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("members"), {}
    for seed, source in enumerate(("drums", "bass")):
        torch.manual_seed(seed)
        network = build(
            "htdemucs-tiny", sources=("drums", "bass"), sample_rate=8000, segment_s=0.25, nfft=512, depth=2,
            transformer_layers=1,
        )  # fmt: skip
        made[source] = checkpoint.save(folder / source, network)
    return made


def test_each_source_comes_from_the_model_named_for_it(members: dict[str, Path], tmp_path: Path) -> None:
    parts = [f"{source}={path}" for source, path in reversed(members.items())]
    assert main(["bag", *parts, "--to", str(tmp_path / "ft.yaml")]) == 0
    mixture_CT = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    together = separate(load_model(tmp_path / "ft.yaml"), mixture_CT)
    alone = [separate(load_model(path), mixture_CT)[place] for place, path in enumerate(members.values())]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-6, rtol=1e-5)


def test_an_ensemble_is_the_mean_by_weight_and_stores_each_model_once(members: dict[str, Path], tmp_path: Path) -> None:
    a, b = members.values()
    assert main(["bag", f"3*{a}", str(b), f"bass=4*{b}", "--to", str(tmp_path / "ensemble.yaml")]) == 0
    assert len(list(tmp_path.iterdir())) == 3
    mixture_CT = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    together = separate(load_model(tmp_path / "ensemble.yaml"), mixture_CT)
    of_a, of_b = (separate(load_model(path), mixture_CT) for path in (a, b))
    mean = torch.stack([(3 * of_a[0] + of_b[0]) / 4, (3 * of_a[1] + 5 * of_b[1]) / 8])
    torch.testing.assert_close(together, mean, atol=1e-6, rtol=1e-5)


def test_a_compressed_member_stays_so_and_any_family_is_one_file(members: dict[str, Path], tmp_path: Path) -> None:
    network = load_model(members["drums"])
    small = checkpoint.save(tmp_path / "small", network, packing=uniform_packing(network, 4, min_mib=0.0))
    options = {"sources": ("drums", "bass"), "sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "hop_length": 128}
    other = checkpoint.save(tmp_path / "other", build("scnet-tiny", **options))
    assert main(["bag", str(small), str(other), "--to", str(tmp_path / "both" / "both.yaml")]) == 0
    packed, plain = tmp_path / "both" / "both_0.safetensors", tmp_path / "both" / "both_1.safetensors"
    assert {path.name for path in packed.parent.iterdir()} == {"both.yaml", packed.name, plain.name}
    assert packed.read_bytes() == (small / "weights.safetensors").read_bytes()
    mixture_CT = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    together = separate(load_model(tmp_path / "both" / "both.yaml"), mixture_CT)
    alone = [separate(load_model(path), mixture_CT) for path in (small, other)]
    torch.testing.assert_close(together, sum(alone) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("parts", "to", "message"),
    [
        (["drums={drums}"], "ft.yaml", "a model for each of drums, bass, got drums; a MODEL alone counts for all"),
        (["{drums}", "horns={bass}"], "ft.yaml", "horns=.*: the models have drums, bass"),
        (["0*{drums}"], "ft.yaml", "a member must be MODEL or SOURCE=MODEL, .* got '0\\*"),
        (["drums=", "bass={bass}"], "ft.yaml", "model 'drums=' not found"),
        (["drums={drums}", "bass={bass}"], "ft", "--to must be a new file, NAME.yaml, got .*ft"),
        (["drums={drums}", "bass=nowhere"], "ft.yaml", "model 'nowhere' not found"),
        (["drums={drums}", "bass={bass}"], "notes/ft.yaml", "cannot write to .*notes: "),
    ],
)
def test_what_makes_no_bag_is_one_message(
    members: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parts: list[str],
    to: str,
    message: str,
) -> None:
    (tmp_path / "notes").write_text("precious")
    given = [part.format(**members) for part in parts]
    assert main(["bag", *given, "--to", str(tmp_path / to)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / to).exists()


def test_a_bag_takes_the_place_of_nothing(
    members: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [f"{source}={path}" for source, path in members.items()]
    assert main(["bag", *parts, "--to", str(tmp_path / "new" / "ft.yaml")]) == 0
    made = sorted((tmp_path / "new").iterdir())
    assert len(made) == 3
    for path in made:
        folder = tmp_path / path.stem
        folder.mkdir()
        (folder / path.name).write_bytes(b"precious")
        assert main(["bag", *parts, "--to", str(folder / "ft.yaml")]) == 2
        assert path.name in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {path.name: b"precious"}
    (tmp_path / "new" / "ft.yaml").rename(tmp_path / "new" / "before.yaml")
    assert main(["bag", *parts, "--to", str(tmp_path / "new" / "ft.yaml")]) == 0  # equal packages may stay
