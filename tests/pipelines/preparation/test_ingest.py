"""Songs become shards once, whatever interrupts the job, and songs that cannot be used become rows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.audio.audio_types import Samples
from datasets.corpus import file_digests
from datasets.errors import InputError
from datasets.loading.segment_sampler import SegmentIndex
from datasets.schema import SOURCES, StemFile, Track
from datasets.seeding import row_rng
from datasets.shards import manifests, shards
from datasets.store import storage, write_lock
from pipelines.preparation import ingest
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, IngestResult, dataset_version
from tests.datasets.audio.encoded import encoded
from tests.datasets.toy_store import batch
from tests.pipelines import broken
from tests.s3 import BUCKET, object_store

RATE = 8000
CONFIG = IngestConfig(sample_rate=RATE, shard_mb=1)


def _stems(name: str, duration_s: float = 2.0) -> Samples:
    ints = row_rng(0, name).integers(-9000, 9000, (4, 2, round(duration_s * RATE)))
    return (ints / 32768).astype(np.float32)


def _song(root: Path, name: str, *, duration_s: float = 2.0) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for source, stem_CT in zip(SOURCES, _stems(name, duration_s), strict=True):
        soundfile.write(folder / f"{source}.flac", stem_CT.T, RATE, subtype="PCM_16")
    return folder


def _corpus(root: Path, num_songs: int = 12) -> CorpusConfig:
    for number in range(num_songs):
        _song(root, f"train/Song {chr(65 + number)}")
    _song(root, "test/Song Z")
    return CorpusConfig(root=str(root))


def _contents(store: Path) -> dict[str, bytes]:
    paths = [path for folder in ("chunks", "manifests") for path in (store / folder).glob("*.*")]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def _no_work(*_: Any, **__: Any) -> Any:
    raise AssertionError("a finished step must not work again")


def _run(corpus: CorpusConfig, store: Path, config: IngestConfig = CONFIG) -> IngestResult:
    return ingest.run(corpus, config, store=str(store))


@pytest.mark.ray
def test_songs_are_stored_exactly_and_a_second_run_finds_them(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _corpus(tmp_path / "c", 3)
    result = _run(corpus, tmp_path / "s")
    assert result.rejected == ()
    songs = manifests.read_songs(result.chunks)
    assert [song.track_id for song in songs] == ["test/Song Z", "train/Song A", "train/Song B", "train/Song C"]
    assert sorted(song.split for song in songs) == ["test", "train", "train", "valid"]
    assert result.drawn == ("valid",)
    np.testing.assert_array_equal(shards.read_track(result.chunks, "train/Song B"), _stems("train/Song B"))
    for job in ("map_rows", "connect"):
        monkeypatch.setattr(dataset_version, job, _no_work)
    assert _run(corpus, tmp_path / "s") == result
    shutil.move(tmp_path / "c", tmp_path / "moved")
    assert _run(CorpusConfig(root=str(tmp_path / "moved")), tmp_path / "s") == result


@pytest.mark.ray
def test_many_files_are_digested_by_tasks_and_a_store_from_before_is_found_whole(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _corpus(tmp_path / "c", 3)
    before, stored = _run(corpus, tmp_path / "s"), _contents(tmp_path / "s")
    (tmp_path / "s" / "cache" / "fingerprints.json").unlink()
    monkeypatch.setattr(file_digests, "BATCH_BYTES", 1)
    monkeypatch.setattr(file_digests, "digest_file", _no_work)  # in this process; tasks have others
    assert _run(corpus, tmp_path / "s") == before
    assert _contents(tmp_path / "s") == stored
    assert len(json.loads((tmp_path / "s" / "cache" / "fingerprints.json").read_text())["files"]) == 16
    assert _run(corpus, tmp_path / "t").chunks.digest == before.chunks.digest


def _decoded(store: Path) -> dict[str, list[str]]:
    """The songs that each shard of a store holds, by the shard's name."""
    sidecars = {path.name: json.loads(path.read_text()) for path in (store / "chunks").glob("*.json")}
    return {name: [song["track_id"] for song in sidecar["songs"]] for name, sidecar in sidecars.items()}


@pytest.mark.ray
def test_songs_that_come_change_or_go_cost_what_they_are_and_old_versions_stay(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    corpus = _corpus(root)
    versions = [_run(corpus, store)]
    shard_bytes = _contents(store)
    before = _decoded(store)
    assert len(before) > 2
    expected = [_ids(versions[0])]

    def run_again(*, decodes: list[str]) -> None:
        seen = _decoded(store)
        versions.append(_run(corpus, store))
        expected.append(_ids(versions[-1]))
        new = {name: songs for name, songs in _decoded(store).items() if name not in seen}
        assert [song for songs in new.values() for song in songs] == decodes

    _song(root, "train/Song F2")
    run_again(decodes=["train/Song F2"])
    soundfile.write(root / "train/Song B/bass.flac", _stems("another")[1].T, RATE, subtype="PCM_16")
    run_again(decodes=["train/Song B"])
    shutil.rmtree(root / "train/Song C")
    run_again(decodes=[])
    corpus = replace(corpus, license="CC0", split_seed=1)
    run_again(decodes=[])
    assert {song.license for song in manifests.read_songs(versions[-1].chunks)} == {"CC0"}
    assert len({version.chunks.digest for version in versions[:4]}) == 4
    assert [_ids(version) for version in versions] == expected
    assert "train/Song C" in expected[2]
    assert "train/Song C" not in expected[3]
    old_CT, new_CT = (shards.read_track(v.chunks, "train/Song B", sources=("bass",))[0] for v in versions[1:3])
    np.testing.assert_array_equal(old_CT, _stems("train/Song B")[1])
    np.testing.assert_array_equal(new_CT, _stems("another")[1])
    assert {name: content for name, content in _contents(store).items() if name in shard_bytes} == shard_bytes
    # What is built at once elsewhere has other shards and is the same dataset.
    fresh = _run(corpus, tmp_path / "fresh")
    assert fresh.chunks.digest == versions[-1].chunks.digest
    assert _ids(fresh) == _ids(versions[-1])
    grown, built = (SegmentIndex.open([(v.chunks, 1.0)], sources=SOURCES, split="train") for v in (versions[-1], fresh))
    np.testing.assert_array_equal(*(batch(index, range(8), seed=3, num_samples=RATE) for index in (grown, built)))


def _ids(result: IngestResult) -> list[str]:
    return [song.track_id for song in manifests.read_songs(result.chunks)]


@pytest.mark.ray
def test_whatever_is_lost_or_cut_is_made_again_byte_for_byte(ray_local: Any, tmp_path: Path) -> None:
    store = tmp_path / "s"
    corpus = _corpus(tmp_path / "c", 16)
    result = _run(corpus, store)
    whole = _contents(store)
    names = sorted(name for name in whole if name.endswith(".parquet"))
    (store / names[0]).unlink()
    (store / names[1]).write_bytes(whole[names[1]][:-100])
    (store / names[2]).with_suffix(".json").unlink()
    (store / "chunks" / ".tmp-left-by-a-killed-job").touch()
    Path(result.chunks.uri).unlink()
    assert _run(corpus, store) == result
    assert _contents(store) == whole
    assert not list((store / "chunks").glob(".tmp-*"))


@pytest.mark.ray
def test_songs_broken_in_any_way_are_rows_with_their_reason_and_the_job_goes_on(ray_local: Any, tmp_path: Path) -> None:
    root = tmp_path / "c"
    due = broken.plant(root)
    broken.write_song(root / 'Good, "quoted" né\nsong')
    result = _run(CorpusConfig(root=str(root)), tmp_path / "s")
    assert {verdict.title: verdict.reason for verdict in result.rejected} == due
    assert len(due) >= 20
    assert [song.title for song in manifests.read_songs(result.chunks)] == ['Good, "quoted" né\nsong']
    assert not any(str(tmp_path) in verdict.detail for verdict in result.rejected)
    assert all(verdict.detail for verdict in result.rejected)
    assert _run(CorpusConfig(root=str(root)), tmp_path / "s") == result


@pytest.mark.ray
def test_a_corpus_of_broken_songs_only_is_refused_with_counts(ray_local: Any, tmp_path: Path) -> None:
    for name in ("One", "Two"):
        (_song(tmp_path / "c", name) / "bass.flac").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 2 songs(.|\n)*empty_file(.|\n)*: 2 songs, such as 'One'"):
        _run(CorpusConfig(root=str(tmp_path / "c")), tmp_path / "s")


def test_a_source_that_no_song_has_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_version, "connect", _no_work)
    _corpus(tmp_path / "c", 1)
    corpus = CorpusConfig(root=str(tmp_path / "c"), sources=("drums", "guitar"))
    with pytest.raises(InputError, match=r'no file for guitar.*\ncorpus\.sources=\["drums", "guitar"\]'):
        _run(corpus, tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ()}, "one or more"),
        ({"sources": ("drums", "drums")}, "different names"),
        ({"sources": ("title",)}, "title is a column"),
        ({"sources": ("../x",)}, "lower-case words"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "nothing is left to train on"),
    ],
)
def test_a_corpus_setting_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CorpusConfig(root="x", **change)


def test_other_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for change in ({"sample_rate": 0}, {"channels": 3}, {"shard_mb": 0}):
        with pytest.raises(InputError, match=rf"ingest\.{next(iter(change))}"):
            IngestConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"corpus\.root is not set"):
        _run(CorpusConfig(), tmp_path)


def test_a_second_job_on_a_store_is_refused_before_it_starts_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_version, "connect", _no_work)
    corpus = _corpus(tmp_path / "c", 1)
    with write_lock.write_lock(tmp_path / "s"), pytest.raises(InputError, match=f"process {os.getpid()} is writing"):
        _run(corpus, tmp_path / "s")
    assert list((tmp_path / "s" / "chunks").glob("*.*")) == [tmp_path / "s" / "chunks" / ".lock"]


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*store\.root=DIR"):
        _run(_corpus(tmp_path / "c", 1), tmp_path / "file" / "store")


@pytest.mark.ray
def test_a_full_disk_stops_the_job_with_one_message_and_leaves_no_half_shard(ray_local: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        corpus = _corpus(tmp_path / "c", 6)
        with pytest.raises(InputError, match=rf"the disk of {disk}/chunks is full: a file of at least \d+ bytes"):
            _run(corpus, disk)
        assert not list((disk / "manifests").glob("*"))
        assert all(shards.find_shard(disk, path.stem) for path in (disk / "chunks").glob("*.json"))
    finally:
        subprocess.run(["umount", disk], check=True)


_COMMAND = """
import sys
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, run
run(CorpusConfig(root=sys.argv[1]), IngestConfig(sample_rate=8000, shard_mb=1), store=sys.argv[2])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_job_is_finished_by_the_next_with_the_same_bytes(
    ray_local: Any, tmp_path: Path, repository: Path
) -> None:
    corpus = _corpus(tmp_path / "c", 24)
    _run(corpus, tmp_path / "undisturbed")
    command = [sys.executable, "-c", _COMMAND, corpus.root, str(tmp_path / "killed")]
    job = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(repository)}, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 800
    while not list((tmp_path / "killed").glob("chunks/*.json")) and time.monotonic() < give_up:
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not list((tmp_path / "killed").glob("manifests/*"))
    time.sleep(3)  # Ray's processes end by themselves within seconds
    _run(corpus, tmp_path / "killed")
    assert _contents(tmp_path / "killed") == _contents(tmp_path / "undisturbed")


def _in_this_process(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
    """Tasks run here, one after the other, after `meanwhile`; the songs of each are noted."""
    decoded: list[str] = []

    def run_here(work: Any, items: Any, resources: Any = None) -> Iterator[Any]:
        meanwhile()
        for item in items:
            decoded.extend(track["track_id"] for track in item["tracks"])
            yield work(item)

    monkeypatch.setattr(dataset_version, "connect", lambda **_: nullcontext())
    monkeypatch.setattr(dataset_version, "map_rows", run_here)
    return decoded


def _refusals(result: IngestResult) -> dict[str, str]:
    return {verdict.track_id: verdict.reason for verdict in result.rejected}


@pytest.mark.parametrize("trouble", ["gone", "a link to itself", "truncated copy under way"])
def test_what_cannot_be_read_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    corpus, store = _corpus(tmp_path / "c", 3), tmp_path / "s"
    stem = tmp_path / "c" / "train" / "Song B" / "vocals.flac"
    whole, stamp = stem.read_bytes(), stem.stat()

    def break_it() -> None:
        stem.unlink()
        if trouble == "a link to itself":
            stem.symlink_to(stem.name)

    def mend() -> None:
        stem.unlink(missing_ok=True)
        stem.write_bytes(whole)
        os.utime(stem, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    decoded = _in_this_process(monkeypatch, break_it)
    if trouble == "truncated copy under way":  # another content each time that it is listed

        def grow() -> None:
            stem.write_bytes(whole[: len(whole) // 3 + len(decoded)])

        decoded = _in_this_process(monkeypatch, grow)
    first = _run(corpus, store)
    assert _refusals(first) == {"train/Song B": "unavailable"}
    assert str(tmp_path) not in first.rejected[0].detail
    assert len(manifests.read_songs(first.chunks)) == 3
    before = _contents(store)
    mend()
    decoded = _in_this_process(monkeypatch)
    second = _run(corpus, store)
    assert (_refusals(second), decoded) == ({}, ["train/Song B"])
    np.testing.assert_array_equal(shards.read_track(second.chunks, "train/Song B"), _stems("train/Song B"))
    after = _contents(store)
    assert {name: after[name] for name in before} == before  # a name never stands for two contents
    # Of the same songs a store that met no trouble holds the same.
    assert _run(corpus, tmp_path / "other").chunks.digest == second.chunks.digest


def test_a_file_that_is_replaced_meanwhile_is_read_again_under_its_own_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, store = _corpus(tmp_path / "c", 2), tmp_path / "s"
    stem = tmp_path / "c" / "test" / "Song Z" / "bass.flac"
    old = stem.read_bytes()
    other_CT = _stems("another take")[1]

    def replace_it() -> None:
        soundfile.write(stem, other_CT.T, RATE, subtype="PCM_16")

    _in_this_process(monkeypatch, replace_it)
    first = _run(corpus, store)
    assert first.rejected == ()
    np.testing.assert_array_equal(shards.read_track(first.chunks, "test/Song Z", sources=("bass",))[0], other_CT)
    stem.write_bytes(old)
    _in_this_process(monkeypatch)
    second = _run(corpus, store)
    np.testing.assert_array_equal(shards.read_track(second.chunks, "test/Song Z"), _stems("test/Song Z"))


def test_what_the_bytes_prove_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, store = _corpus(tmp_path / "c", 3), tmp_path / "s"
    (tmp_path / "c" / "train" / "Song A" / "bass.flac").write_bytes(b"no sound at all" * 99)
    decoded = _in_this_process(monkeypatch)
    assert _refusals(_run(corpus, store)) == {"train/Song A": "undecodable"}
    assert len(decoded) == 4
    _song(tmp_path / "c", "train/Song X")
    assert _refusals(_run(corpus, store)) == {"train/Song A": "undecodable"}
    assert decoded[4:] == ["train/Song X"]


def test_a_file_that_cannot_be_listed_is_not_stored_under_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, store = _corpus(tmp_path / "c", 2), tmp_path / "s"
    stem = tmp_path / "c" / "train" / "Song A" / "drums.flac"
    stem.rename(tmp_path / "away.flac")
    stem.symlink_to(tmp_path / "nowhere.flac")
    decoded = _in_this_process(monkeypatch)
    assert _refusals(_run(corpus, store)) == {"train/Song A": "unavailable"}
    assert "train/Song A" not in decoded
    stem.unlink()
    (tmp_path / "away.flac").rename(stem)
    assert _refusals(_run(corpus, store)) == {}


def test_songs_keep_their_side_in_a_store_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        _song(tmp_path / "c", f"Song {number}")
    _in_this_process(monkeypatch)
    corpus, seen = CorpusConfig(root=str(tmp_path / "c")), dict[str, str]()
    for number in range(5, 12):
        sides = {song.track_id: song.split for song in manifests.read_songs(_run(corpus, tmp_path / "s").chunks)}
        assert {name: sides[name] for name in seen} == seen
        assert set(sides.values()) == {"train", "valid", "test"}
        seen = sides
        _song(tmp_path / "c", f"Song {number}")
    # Another draw is asked for by another seed, and found again under it.
    others = [_run(replace(corpus, split_seed=seed), tmp_path / "s").chunks.digest for seed in (1, 0, 1)]
    assert others[0] == others[2] != others[1]


def test_a_songs_key_is_that_of_its_audio_and_not_of_its_place_or_split() -> None:
    track = Track(
        track_id="song",
        title="song",
        group="g",
        split="train",
        license="unknown",
        layout="folders",
        fingerprint="f",
        stems={"drums": (StemFile(path="here/drums.wav", num_bytes=10, changed_ns=1),)},
    )

    def key(track: Track = track, config: IngestConfig = CONFIG, sources: tuple[str, ...] = ("drums",)) -> str:
        return ingest.song_key(track, config, sources)

    elsewhere = {"drums": (StemFile(path="moved/drums.wav", num_bytes=10, changed_ns=2),)}
    same = replace(track, stems=elsewhere, split="test", license="CC0", title="t")
    assert key(same) == key(config=replace(CONFIG, shard_mb=2)) == key()
    others = [
        key(replace(track, fingerprint="g")),
        key(replace(track, track_id="other")),
        key(replace(track, stems={"drums": (replace(track.stems["drums"][0], stream=1),)})),
        key(replace(track, stems={"drums": (replace(track.stems["drums"][0], side="left"),)})),
        key(replace(track, mixture=(StemFile(path="here/mixture.wav", content="m"),))),
        key(config=replace(CONFIG, sample_rate=16_000)),
        key(sources=("drums", "bass")),
    ]
    assert len({key(), *others}) == 8


@pytest.mark.ray
def test_a_copy_is_used_once_a_muted_file_is_left_out_and_both_are_said(ray_local: Any, tmp_path: Path) -> None:
    folder = _song(tmp_path / "c", "Song A")
    before = _run(CorpusConfig(root=str(tmp_path / "c")), tmp_path / "s")
    shutil.copy(folder / "vocals.flac", folder / "vocals (1).flac")
    shutil.copy(folder / "bass.flac", folder / "Gtr MUTED.flac")
    (folder / "old").mkdir()
    soundfile.write(folder / "old/bass.flac", _stems("another")[1].T, RATE, subtype="PCM_16")
    with pytest.raises(
        InputError, match=r"Song A/old/bass\.flac and Song A/bass\.flac are two versions of one bass stem"
    ):
        _run(CorpusConfig(root=str(tmp_path / "c")), tmp_path / "s")
    shutil.rmtree(folder / "old")
    result = _run(CorpusConfig(root=str(tmp_path / "c")), tmp_path / "s")
    assert result.chunks.digest == before.chunks.digest
    assert manifests.read_manifest(result.chunks).extra["origins"]["Song A"] == {
        "lossless": True, "bits": 16, "sample_rate": RATE,
        "remarks": [
            "Gtr MUTED.flac is left out: muted, by its name",
            "Song A/vocals (1).flac holds the same audio as Song A/vocals.flac, which is used once",
        ],
    }  # fmt: skip
    assert _run(CorpusConfig(root=str(tmp_path / "c")), tmp_path / "s") == result


@pytest.mark.parametrize("remote", [False, True])
def test_the_mixture_that_came_with_a_song_tells_how_late_a_lossy_file_begins_and_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    with object_store() if remote else nullcontext():
        _check_start_by_mixture(tmp_path, monkeypatch, f"s3://{BUCKET}/c" if remote else str(tmp_path / "c"))


def _check_start_by_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    decoded, folder, rate = _in_this_process(monkeypatch), tmp_path / "c/Song A", 44100
    folder.mkdir(parents=True)
    stems = {source: 0.1 * row_rng(0, source).standard_normal((2, 3 * rate)).astype(np.float32) for source in SOURCES}
    for source, stem_CT in stems.items():
        soundfile.write(folder / f"{source}.wav", stem_CT.T, rate)
    (folder / "drums.wav").unlink()
    encoded(folder / "drums.aac", "aac", samples_CT=stems["drums"])
    corpus, config = CorpusConfig(root=root), IngestConfig(sample_rate=rate)

    def told() -> tuple[str, int]:
        """The remark, and how late the drums are stored."""
        for path in folder.iterdir():
            if storage.is_remote(root) and storage.stamp(f"{root}/Song A/{path.name}") is None:
                storage.write(f"{root}/Song A/{path.name}", path.read_bytes())
        result = _run(corpus, tmp_path / "s", config)
        (remark,) = manifests.read_manifest(result.chunks).extra["origins"]["Song A"]["remarks"]
        stored_CT = shards.read_track(result.chunks, "Song A")[0]
        size = 8 * rate
        both_T = np.fft.irfft(np.fft.rfft(stored_CT[0], size) * np.fft.rfft(stems["drums"][0], size).conj(), size)
        return remark, int(both_T.argmax())

    uncertain = "start uncertain: Song A/drums.aac does not say its codec's delay, which is 1024 samples as a rule"
    assert told() == (uncertain, 1024)
    soundfile.write(folder / "mixture.wav", np.sum([*stems.values()], axis=0).T, rate)
    taken_off = (
        "Song A/drums.aac began 1024 samples late by its codec's delay, which the mixture confirmed: taken off",
        0,
    )
    assert told() == taken_off
    assert told() == taken_off
    assert decoded == ["Song A"] * 2
    # Of another length: the server of S3 may tell times to the second.
    soundfile.write(folder / "mixture.wav", 0.1 * row_rng(0, "another song").standard_normal((3 * rate - 9, 2)), rate)
    if storage.is_remote(root):
        storage.remove(f"{root}/Song A/mixture.wav")
    assert told() == (uncertain, 1024)
