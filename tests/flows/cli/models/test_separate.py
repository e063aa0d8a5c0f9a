"""`stemline separate` on the terminal: what decoders say by themselves is in a log, and a path stands there once."""

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from datasets.seeding import row_rng

pytestmark = pytest.mark.slow
RATE = 8000


def _talkative(path: Path) -> Path:
    """An MP3 with something between its frames, which decodes whole, and about which its decoder speaks."""
    noise_TC = 0.1 * row_rng(0, "separate").standard_normal((3 * RATE, 2))
    soundfile.write(path, noise_TC, RATE, format="MP3")
    whole = path.read_bytes()
    place = next(at for at in range(2000, len(whole)) if whole[at : at + 2] == whole[:2])
    path.write_bytes(whole[:place] + b"<html>no audio</html>" * 20 + whole[place:])
    return path


def _separate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows", "separate", *words], capture_output=True, text=True)


def test_what_decoders_say_is_in_a_log_and_a_path_stands_once(tmp_path: Path) -> None:
    import torch

    from models.networks import catalog
    from models.weights import checkpoint

    torch.manual_seed(0)
    network = catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=RATE)
    model, out = str(checkpoint.save(tmp_path / "checkpoint", network)), tmp_path / "out"
    song, text = _talkative(tmp_path / "talk.mp3"), tmp_path / "text.wav"
    text.write_text("this is no audio")
    done = _separate(str(song), str(text), "--model", model, "--out", str(out))
    assert done.returncode == 2, done.stderr
    log = (out / "stderr.log").read_text(encoding="utf-8")
    assert "Illegal Audio-MPEG-Header" in log
    assert "Illegal Audio-MPEG-Header" not in done.stderr + done.stdout
    assert f"What decoders said is in {out / 'stderr.log'}" in done.stderr.replace("\n", "")
    (failed,) = (line for line in done.stderr.splitlines() if line.startswith("✗"))
    assert failed.count("text.wav") == 1, failed
    assert len(list((out / "talk").glob("*.wav"))) == 4
