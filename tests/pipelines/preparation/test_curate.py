"""The right songs are dropped for the right reasons, and what is kept can be trained and tested on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tomli_w

from datasets.corpus.splits import assign_splits
from datasets.corpus.synthetic import write_corpus
from datasets.errors import InputError
from datasets.quality.fingerprint import unpack
from datasets.schema import SOURCES, Landmarks, ShardSet, Verdict
from datasets.seeding import row_rng
from datasets.shards import arrow_tables, dataset_versions, manifests
from pipelines import registry
from pipelines.preparation import analyze, automix, corpus_rules, curate, ingest, label_check, signal_stats
from pipelines.preparation.analyze import AnalyzeConfig
from pipelines.preparation.automix import AutomixConfig
from pipelines.preparation.curate import CurateResult
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, IngestResult, dataset_version
from tests.pipelines.preparation import test_label_check as bands

RATE = 8000
pytestmark = pytest.mark.ray


def _song(root: Path, name: str, *, silent: tuple[str, ...] = (), gain: float = 0.1) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    noise = row_rng(0, name).standard_normal((4, 2, 4 * RATE + 15))
    for source, stem_CT in zip(SOURCES, noise, strict=True):
        smooth_CT = np.apply_along_axis(lambda row: np.convolve(row, np.ones(16) / 4, "valid"), 1, stem_CT)
        level = 0.0 if source in silent else gain
        soundfile.write(folder / f"{source}.wav", np.clip(smooth_CT.T * level, -1, 1), RATE, subtype="FLOAT")
    return folder


def _ingest(root: Path, store: Path, *, sample_rate: int = RATE, **corpus: Any) -> IngestResult:
    settings = IngestConfig(sample_rate=sample_rate, shard_mb=1)
    return ingest.run(CorpusConfig(root=str(root), **corpus), settings, store=str(store))


def _curate(ingested: IngestResult, store: Path, config: CurateConfig | None = None, **options: Any) -> CurateResult:
    return curate.run(config or CurateConfig(), ingested, store=str(store), **options)


def _verdicts(result: CurateResult) -> dict[str, Verdict]:
    return {verdict.title: verdict for verdict in arrow_tables.read_objects(result.verdicts, Verdict)}


def test_each_song_is_kept_or_dropped_for_its_reason(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABCDEF":
        _song(root, f"Song {letter}")
    _song(root, "NullProgress", silent=("vocals",))
    _song(root, "Clipped", gain=2.0)
    shutil.copytree(root / "Song C", root / "Song C again")
    (_song(root, "Broken") / "drums.wav").write_bytes(b"")
    ingested = _ingest(root, store)
    result = _curate(ingested, store, require=("train", "valid", "test"))
    verdicts = _verdicts(result)
    assert {title: verdict.reason for title, verdict in verdicts.items() if not verdict.keep} == {
        "Broken": "empty_file",
        "Clipped": "clipped",
        "NullProgress": "silent_source",
        "Song C again": "leak",  # the draw has put the two on different sides
    }
    assert verdicts["Song C again"].detail.startswith("the same audio as the test song Song C: 0:00-0:0")
    assert "vocals in 0%" in verdicts["NullProgress"].detail
    assert verdicts["Song A"].measures["bass_presence"] == 1.0
    assert result.kept == tuple(f"Song {letter}" for letter in "ABCDEF")
    assert {song.track_id for song in manifests.read_songs(result.chunks)} == set(result.kept)
    dropped = {"empty_file": 1, "clipped": 1, "silent_source": 1, "leak": 1}
    assert (result.summary["songs"], result.summary["kept"], result.summary["dropped"]) == (10, 6, dropped)
    assert sum(result.summary["splits"].values()) == 6
    # What they sound like is kept with the dataset: models compared on it later must not have heard them elsewhere.
    kept = manifests.read_manifest(result.chunks)
    sounds = arrow_tables.read_objects(ShardSet(**kept.extra["landmarks"]), Landmarks)
    assert [(one.track_id, one.audio) for one in sounds] == [(song.track_id, song.audio) for song in kept.songs]
    assert all(len(unpack(one.signature)) > 1 for one in sounds)


def test_finished_verdicts_are_found_and_new_thresholds_measure_nothing_again(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}")
    _song(root, "NullProgress", silent=("vocals",))
    ingested = _ingest(root, store)
    result = _curate(ingested, store)

    def no_work(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(signal_stats, "map_rows", no_work)
    monkeypatch.setattr(signal_stats, "connect", no_work)
    assert _curate(ingested, store) == result
    lenient = _curate(ingested, store, CurateConfig(min_presence=0))
    assert set(lenient.kept) == {*result.kept, "NullProgress"}
    assert lenient.chunks.digest != result.chunks.digest
    Path(
        manifests.read_manifest(result.verdicts).store, manifests.read_manifest(result.verdicts).shards[0].file
    ).unlink()
    assert _curate(ingested, store) == result


def test_a_store_with_settings_in_toml_files_is_whole_and_its_steps_are_found_again(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}")
    _song(root, "Quiet", silent=("vocals",))
    asked = AutomixConfig(mixes_per_track=1)

    def results() -> tuple[Any, ...]:
        curated = _curate(ingested := _ingest(root, store), store)
        profiles = analyze.run(AnalyzeConfig(), curated.chunks, store=str(store))
        return ingested, curated, profiles, automix.run(asked, curated.chunks, profiles, store=str(store))

    before = results()
    for path in (store / "manifests").glob("*.json"):  # as version 0.1 left them
        content = json.loads(path.read_text())
        settings = content.pop("settings")
        path.write_text(json.dumps(content))
        if settings:
            path.with_suffix(".toml").write_text(tomli_w.dumps({"store": {"root": "s"}, **settings}))
    of_before = {path: path.read_bytes() for path in store.rglob("*.*")}

    def no_work(*_: Any, **__: Any) -> Any:
        raise AssertionError("everything is there")

    for step in (dataset_version, signal_stats, analyze, automix):
        monkeypatch.setattr(step, "map_rows", no_work)
    assert results() == before
    assert {path: path.read_bytes() for path in store.rglob("*.*")} == of_before
    lenient = _curate(before[0], store, CurateConfig(min_presence=0))
    assert manifests.read_manifest(lenient.chunks).settings.keys() == {"corpus", "ingest", "curate"}
    changed = [
        version.changed_settings for version in dataset_versions.list_versions(store) if version.step == "curate"
    ]
    assert changed == [{"curate.min_presence": (CurateConfig().min_presence, 0)}, {}]


def test_when_every_song_breaks_a_rule_the_message_names_rule_count_and_override(
    ray_local: Any, tmp_path: Path
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}", silent=("vocals", "bass") if letter == "A" else ("vocals",))
    with pytest.raises(InputError) as caught:
        _curate(_ingest(root, store), store)
    for words in (
        "3 found → 3 readable → 0 kept",
        "silent_source (a source sounds in too few seconds): 3 songs, such as 'Song A'",
        'corpus.sources=["drums","bass","other"] leaves out vocals',
        "curate.min_presence=0",
    ):
        assert words in str(caught.value)
    without_vocals = _curate(_ingest(root, store, sources=("drums", "bass", "other")), store)
    assert without_vocals.kept == ("Song B", "Song C")


def test_a_drawn_split_that_came_out_empty_is_dealt_again(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    names = [f"Song {letter}" for letter in "ABCDEF"]
    for name in names:
        _song(tmp_path / "probe", name)
    sides = {song.title: song.split for song in manifests.read_songs(_ingest(tmp_path / "probe", store).chunks)}
    for name in names:
        _song(root, name, silent=("bass",) if sides[name] == "test" else ())
    result = _curate(_ingest(root, store), store, require=("train", "test"))
    assert len(result.kept) == 5
    assert {song.split for song in manifests.read_songs(result.chunks)} == {"train", "valid", "test"}
    verdicts = _verdicts(result)
    assert {song.title: song.split for song in manifests.read_songs(result.chunks)} == {
        title: verdict.split for title, verdict in verdicts.items() if verdict.keep
    }


def _drawn(sides: dict[str, str], dropped: str = "") -> list[Verdict]:
    return [
        Verdict(
            track_id=name, title=name, split=side, keep=name != dropped, reason="clipped" if name == dropped else "",
            detail="", duration_s=1.0, measures={},
        )
        for name, side in sides.items()
    ]  # fmt: skip


@pytest.mark.parametrize("valid", [0.0, 0.1])
def test_a_dropped_song_moves_nobody_unless_it_was_the_last_of_its_side(valid: float) -> None:
    names = [f"Song {number:02d}" for number in range(30)]
    rule = {"seed": 0, "valid_fraction": valid, "test_fraction": 0.2}
    sides = {name: side for name, (side, _) in assign_splits(names, **rule).items()}
    about = {"drawn": ["test", "valid"], "split_rule": rule}
    assert list(sides.values()).count("valid") != 1
    for dropped in names:
        moved = {v.track_id: v.split for v in corpus_rules.resplit(_drawn(sides, dropped), about) if v.keep}
        assert moved == {name: side for name, side in sides.items() if name != dropped}
    lonely = dict.fromkeys(names, "train") | {"Song 07": "test"} | ({"Song 08": "valid"} if valid else {})
    again = {v.track_id: v.split for v in corpus_rules.resplit(_drawn(lonely, "Song 07"), about) if v.keep}
    (taken,) = [name for name, side in again.items() if side != lonely[name]]
    assert again[taken] == "test"
    # It stays there when the dropped song is back, or when others join.
    known = {**about, "curated_sides": again}
    assert {v.track_id for v in corpus_rules.resplit(_drawn(lonely), known) if v.split == "test"} == {taken, "Song 07"}


def test_a_split_that_folders_state_is_not_refilled(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"train/Song {letter}")
    _song(root, "test/Song T", silent=("bass",))
    ingested = _ingest(root, store)
    assert _curate(ingested, store).summary["splits"]["test"] == 0
    with pytest.raises(InputError, match="none is left to test on"):
        _curate(ingested, store, require=("train", "test"))


def test_of_copies_the_better_is_kept_unless_a_side_or_a_person_says_otherwise(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    kinds = {"A lossy": (".ogg", "VORBIS"), "B 16 bit": (".wav", "PCM_16"), "C 24 bit": (".wav", "PCM_24")}
    for name in ("Two", "Three"):
        _song(root, f"train/{name}")
    _song(root, "train/One/Z")
    stems = {path.stem: soundfile.read(path, always_2d=True)[0] for path in (root / "train/One/Z").iterdir()}
    shutil.rmtree(root / "train/One")
    for kind, (suffix, subtype) in kinds.items():
        for folder in (f"train/{kind}", *([f"test/{kind}"] if kind == "A lossy" else [])):
            (root / folder).mkdir(parents=True)
            for source, samples in stems.items():
                soundfile.write(root / folder / f"{source}{suffix}", samples, RATE, subtype=subtype)

    def kept(**config: Any) -> set[str]:
        ingested = _ingest(root, store, valid_fraction=0.0, test_fraction=0.0)
        result = _curate(ingested, store, CurateConfig(**config), require=())
        verdicts = arrow_tables.read_objects(result.verdicts, Verdict)
        return {v.track_id for v in verdicts if v.keep and v.title in kinds}

    assert kept() == {"test/A lossy"}  # the stricter side
    shutil.rmtree(root / "test")
    assert kept() == {"train/C 24 bit"}
    overrides = tmp_path / "mine.csv"
    overrides.write_text("track_id,verdict,why\ntrain/A lossy,keep,it is the one I know\n")
    assert kept(overrides=str(overrides)) == {"train/A lossy"}
    shutil.rmtree(root / "train/C 24 bit")
    assert kept() == {"train/B 16 bit"}


def test_one_funnel_leads_from_the_songs_found_to_those_kept(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"Song {letter}")
    _song(root, "Silent", silent=("bass",))
    (_song(root, "Broken") / "bass.wav").write_bytes(b"")
    ingested = _ingest(root, store)
    assert ingested.funnel.words == "5 found → 4 readable"
    curated = _curate(ingested, store)
    assert curated.funnel.words == "5 found → 4 readable → 3 kept"
    assert "5 found → 4 readable → 3 kept" in Path(curated.page).read_text(encoding="utf-8")


def test_a_corpus_of_a_test_folder_alone_is_refused_for_training_in_plain_words(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "AB":
        _song(root, f"test/Song {letter}")
    ingested = _ingest(root, store)
    assert _curate(ingested, store, require=()).summary["splits"] == {"train": 0, "valid": 0, "test": 2}
    with pytest.raises(InputError, match=r"all songs are in test/ \(2\).*there is nothing to train on"):
        _curate(ingested, store)


def test_verdicts_without_a_mixture_that_was_out_of_reach_do_not_last(ray_local: Any, tmp_path: Path) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "ABC":
        _song(root, f"train/Song {letter}")
    _song(root, "test/Song T")
    mixture = root / "train/Song B/mixture.wav"
    soundfile.write(mixture, 0.1 * row_rng(0, "other").standard_normal((4 * RATE, 2)), RATE, subtype="FLOAT")
    (root / "train/Song C/mixture.wav").write_bytes(b"no sound at all" * 99)
    ingested = _ingest(root, store)
    mixture.rename(tmp_path / "away.wav")
    without = _curate(ingested, store)
    told = _verdicts(without)
    assert told["Song B"].keep
    assert "the next run tries again; too short to judge hum" in told["Song B"].detail
    assert told["Song C"].keep
    assert "Song C/mixture.wav: no decoder knows this file" in told["Song C"].detail
    assert told["Song A"].detail.startswith("too short to judge hum, which takes 8 s of sound: ")
    assert "mixture" not in told["Song A"].detail
    (tmp_path / "away.wav").rename(mixture)
    with_mixture = _curate(ingested, store)
    assert _verdicts(with_mixture)["Song B"].reason == "unlike_mixture"
    assert _curate(ingested, store) == with_mixture


def test_planted_defects_are_dropped_for_the_planted_reasons(ray_local: Any, tmp_path: Path) -> None:
    truth = write_corpus(tmp_path / "c", num_songs=6, seed=0, duration_s=6.0, sample_rate=RATE)
    result = _curate(_ingest(tmp_path / "c", tmp_path / "s"), tmp_path / "s")
    reasons = {title: verdict.reason for title, verdict in _verdicts(result).items()}
    assert reasons == {song.title: song.reason for song in truth.songs}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "sources", "kept"),
    [
        ("cc0_album", SOURCES, 3),  # one is wrongly taken for swapped, two in the next, one in the one after
        ("cc0_album", ("drums", "other", "vocals"), 5),
        ("lmms_demos", ("drums", "bass", "other"), 4),  # one has no bass, one drums off zero
        ("musdb_stem_mp4", SOURCES, 2),
        ("real_small", ("drums", "bass", "other"), 2),
        ("rendered_stems", SOURCES, 7),  # one is clipped, one has the bass in another stem
    ],
)
def test_shared_sets_give_songs_to_train_and_to_test_on(
    ray_local: Any, tmp_path: Path, shared_data: Path, corpus: str, sources: tuple[str, ...], kept: int
) -> None:
    ingested = _ingest(shared_data / corpus, tmp_path, sample_rate=44100, sources=sources)
    result = _curate(ingested, tmp_path, require=("train", "test"))
    assert ingested.rejected == ()
    assert len(result.kept) == kept, _verdicts(result)


def test_a_train_song_that_a_test_song_repeats_is_dropped_and_the_test_song_named(
    ray_local: Any, tmp_path: Path
) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for name in ("test/Song T", "train/Song A", "train/Song B"):
        _song(root, name)
    shutil.copytree(root / "test" / "Song T", root / "train" / "Another name")
    shutil.copytree(root / "train" / "Song A", root / "train" / "Song A again")
    verdicts = _verdicts(_curate(_ingest(root, store, valid_fraction=0.0), store, require=("train", "test")))
    dropped = {title: (one.reason, one.detail.split(":")[0]) for title, one in verdicts.items() if not one.keep}
    assert dropped == {
        "Another name": ("leak", "the same audio as the test song test/Song T"),
        "Song A again": ("duplicate", "the same audio as train/Song A"),
    }
    assert verdicts["Song T"].keep


def test_a_person_overrules_the_rules_and_the_words_stay_with_the_verdict(ray_local: Any, tmp_path: Path) -> None:
    root, store, file = tmp_path / "c", tmp_path / "s", tmp_path / "hand.csv"
    for name in ("train/Song A", "train/Song B", "train/Song C", "test/Song T"):
        _song(root, name)
    _song(root, "train/Clipped", gain=2.0)
    shutil.copytree(root / "test" / "Song T", root / "train" / "Song T live")
    ingested = _ingest(root, store)
    untouched = _curate(ingested, store)
    file.write_text("track_id,verdict,why\ntrain/Clipped,keep,it is metal\ntrain/Song A,drop,out of tune\n")
    by_hand = CurateConfig(overrides=str(file))
    result = _curate(ingested, store, by_hand)
    verdicts = _verdicts(result)
    assert verdicts["Clipped"].keep
    assert verdicts["Clipped"].detail.startswith("overridden by hand: it is metal (the rules: clipped, ")
    assert verdicts["Song A"].reason == "overridden"
    assert verdicts["Song A"].detail.startswith("overridden by hand: out of tune; too short to judge hum")
    assert result.summary["by_hand"] == 2
    assert result.kept == ("test/Song T", "train/Clipped", "train/Song B", "train/Song C")
    file.write_text("track_id,verdict,why\ntrain/Song T live,keep,another take\n")
    again = _curate(ingested, store, by_hand)
    assert set(again.kept) == {*untouched.kept, "train/Song T live"}
    assert "(the rules: the same audio as the test song test/Song T: " in _verdicts(again)["Song T live"].detail
    file.write_text("track_id,verdict,why\ntrain/Song Z,drop,x\n")
    with pytest.raises(InputError, match="no song 'train/Song Z'; did you mean 'train/Song"):
        _curate(ingested, store, by_hand)


def test_one_more_song_is_measured_alone(ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, store = tmp_path / "c", tmp_path / "s"
    for letter in "AB":
        _song(root, f"train/Song {letter}")
    _curate(_ingest(root, store), store)
    (root / "train" / "Song A").rename(root / "train" / "Renamed")
    _song(root, "train/Song C")
    ingested = _ingest(root, store)
    measured: list[str] = []
    spread = signal_stats.map_rows

    def noting(job: Any, items: Any) -> Any:
        measured.extend(work["song"]["title"] for item in items for work in item["songs"])
        return spread(job, items)

    monkeypatch.setattr(signal_stats, "map_rows", noting)
    assert len(_curate(ingested, store).kept) == 3
    assert measured == ["Song C"]


def test_songs_whose_stems_a_model_hears_as_others_are_dropped(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(bands)  # workers know this model by value
    known = label_check.LabelModel(path="bands", digest="bands", sources=bands.BandsConfig().sources)
    monkeypatch.setattr(label_check, "load", bands.load_bands)
    monkeypatch.setattr(label_check, "label_model", {"bands": known}.__getitem__)
    monkeypatch.setattr(registry, "resolve", lambda ref, *, store: {"models:/bands@champion": "bands"}[ref])
    root, store = tmp_path / "c", tmp_path / "s"
    for number, called in enumerate((bands.SOURCES, bands.SOURCES, ("drums", "vocals", "bass"))):
        for predicted_as, name in zip(called, bands.SOURCES, strict=True):
            path = root / f"train/Song {number}" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, bands.tones(*[predicted_as] * (5 + number)).T, bands.RATE, subtype="FLOAT")
    ingested = _ingest(root, store, sources=bands.SOURCES)
    config = CurateConfig(model="models:/bands@champion", min_similarity=2)  # equal tones are equal recordings
    result = _curate(ingested, store, config)
    swapped = _verdicts(result)["Song 2"]
    assert (result.kept, swapped.reason) == (("train/Song 0", "train/Song 1"), "mislabelled")
    assert swapped.detail.startswith("bass and vocals look swapped; the stem called bass is heard as vocals in 100%")
    assert swapped.measures["bass_heard_as_vocals"] == 1.0
    page = Path(result.page).read_text(encoding="utf-8")
    assert page.count("<audio") == 2
    assert "models:/bands@champion" in page

    def no_work(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model is not to be asked again")

    monkeypatch.setattr(label_check, "_listen", no_work)
    stricter = replace(config, min_own=0.99, max_foreign=0.01, heard_db=-20.0)
    assert _curate(ingested, store, stricter).kept == result.kept
    Path(result.page).unlink()
    assert _curate(ingested, store, config) == result
    assert Path(result.page).read_text(encoding="utf-8") == page
    other = _ingest(root, store, sources=("drums", "bass"))
    with pytest.raises(InputError, match="separates bass, vocals, drums, but the songs have drums, bass"):
        _curate(other, store, config)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(InputError, match=r"curate\.min_own must be in .*got 1\.5"):
        CurateConfig(min_own=1.5)
    with pytest.raises(InputError, match=r"curate\.num_workers must be .*got 0"):
        CurateConfig(num_workers=0)
    with pytest.raises(InputError, match=r"curate\.min_presence must be .*got -1"):
        CurateConfig(min_presence=-1)
