"""museval's files: written for it, and read back from it."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.schema import Score
from pipelines.evaluation import museval_json
from pipelines.evaluation.song_scoring import METRICS, SongResult

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import museval


def result(track_id: str, title: str, value: float) -> SongResult:
    """Two windows for drums, the second without scores; a perfect SDR for bass."""
    score = Score(
        track_id=track_id, title=title, source="drums", protocol="p", nsdr=value, sdr=value, mixture_nsdr=0.0,
        mixture_sdr=0.0,
    )  # fmt: skip
    drums = {name: [value + place, None] for place, name in enumerate(METRICS)}
    bass = {name: [float("inf") if name == "sdr" else 1.0, 1.0] for name in METRICS}
    return SongResult(scores=(score,), windows={"drums": drums, "bass": bass}, window_s=1.0, seconds=1.0)


def test_museval_reads_our_files_and_sums_them_up_as_we_do(tmp_path: Path) -> None:
    museval_json.write(str(tmp_path), "test", [result("a", "Song A", 1.25), result("b", "Song B", 3.0)])
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path)
    theirs = store.agg_frames_tracks_scores()
    ours = museval_json.medians(museval_json.read(tmp_path))
    assert sorted(store.df["track"].unique()) == ["Song A", "Song B"]
    assert ours["drums"] == {"sdr": 2.125, "isr": 3.125, "sir": 4.125, "sar": 5.125}
    for source, metrics in ours.items():
        for name, value in metrics.items():
            assert theirs[source, name.upper()] == pytest.approx(value)


def test_we_read_museval_s_files_which_are_as_ours(tmp_path: Path) -> None:
    track = museval.TrackStore("Song A", win=1, hop=1)
    for source, metrics in result("a", "Song A", 1.25).windows.items():
        values = {name.upper(): np.array([np.nan if v is None else v for v in row]) for name, row in metrics.items()}
        track.add_target(source, {name: row.tolist() for name, row in values.items()})
    track.validate()
    track.save(tmp_path / "Song A.json")
    (ours,) = museval_json.write(str(tmp_path / "ours"), "test", [result("a", "Song A", 1.25)])
    mine, theirs = (json.loads(path.read_text())["targets"] for path in (Path(ours), tmp_path / "Song A.json"))
    assert [target["name"] for target in mine] == [target["name"] for target in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for frame, expected in zip(one["frames"], other["frames"], strict=True):
            assert (frame["time"], frame["duration"]) == (expected["time"], expected["duration"])
            assert frame["metrics"] == pytest.approx(expected["metrics"], nan_ok=True, abs=0)
    windows = museval_json.read(tmp_path)["Song A"]
    assert windows["drums"]["isr"] == [2.25, None]
    assert windows["bass"]["sdr"] == [None, 1.0]


def test_songs_of_one_title_get_files_of_their_own(tmp_path: Path) -> None:
    paths = museval_json.write(str(tmp_path), "test", [result("x/a", "Song", 1.0), result("y/a", "Song", 2.0)])
    assert len(set(paths)) == 2
    assert all(Path(path).parent == tmp_path / "test" for path in paths)


def test_what_is_no_file_of_museval_s_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be a folder that museval wrote: there is no \*\.json"):
        museval_json.read(tmp_path)
    (tmp_path / "song.json").write_text('{"targets": [{"name": "drums", "frames": [{}]}]}')
    with pytest.raises(InputError, match=r"song\.json is no file of museval's"):
        museval_json.read(tmp_path)


def test_scores_of_others_are_not_replaced_and_ours_are(tmp_path: Path) -> None:
    published = tmp_path / "test" / "Song A.json"
    published.parent.mkdir()
    published.write_text('{"targets": [], "museval_version": "0.4.1"}')
    results = [result("b", "Song B", 3.0), result("a", "Song A", 1.25)]
    for write in (museval_json.write, lambda *asked: museval_json.check(*asked[:2], [("Song A", "a")])):
        with pytest.raises(InputError, match=r"holds Song A\.json.*evaluate\.museval_json=DIR"):
            write(str(tmp_path), "test", results)
    assert [path.name for path in published.parent.iterdir()] == ["Song A.json"]
    assert json.loads(published.read_text())["targets"] == []
    for sdr in (1.0, 2.0):
        museval_json.write(str(tmp_path / "ours"), "test", [result("a", "Song A", sdr)])
    assert museval_json.read(tmp_path / "ours")["Song A"]["drums"]["sdr"] == [2.0, None]
