"""What each step makes of tiny fixed inputs, and the command that notes it for a new version.

    python -m tests.pipelines.runtime.step_results

Integers, words and digests are compared exactly: decoding PCM, splits, plans and verdicts are exact. Floats are
compared with a tolerance: libraries add in another order on other CPUs, which moves their last bits, and a digest of
them would call that another result. Inputs are made by integer arithmetic alone, so they are the same everywhere.
"""

import hashlib
import json
import math
import re
import struct
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.audio.decoding import decode_blocks
from datasets.corpus import synthetic
from datasets.corpus.splits import assign_splits
from datasets.mixing.mixplan import MixRules
from datasets.quality.rules.quality_rules import QualityRules
from datasets.schema import PROFILES, MixPlan, Profile, Score, ShardSet, Verdict
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.manifests import read_songs
from datasets.shards.shards import read_song
from models.learner_config import AugmentConfig, LearnerConfig
from models.networks.catalog import build
from models.weights import checkpoint
from pipelines.evaluation import evaluate
from pipelines.inference import separate_songs
from pipelines.lineage import training_recordings
from pipelines.preparation import analyze, automix, curate, ingest, label_check, signal_stats
from pipelines.report.curation import curation_page
from pipelines.runtime.step_keys import Step
from pipelines.training import train, train_result

NOTED = Path(__file__).with_suffix(".json")
RATE, SECONDS, SOURCES = 8000, 6, ("drums", "bass")
SYNTHETIC = Step(name="synthetic", version=synthetic.VERSION)
MODEL = {"segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1}
Results = dict[str, Any]


# --- inputs ---------------------------------------------------------------------------------------------------


def write_inputs(root: Path) -> None:
    """Four songs of two stems in PCM, one with a mixture that is not their sum."""
    for number, name in enumerate(("train/Ada - One", "train/Bo - Two", "valid/Cy - Three", "test/Di - Four")):
        stems = {"drums": _drums(number), "bass": _bass(number)}
        for source, samples in stems.items():
            _write(root / name / f"{source}.wav", samples)
        if not number:
            _write(root / name / "mixture.wav", [(a + b) // 2 for a, b in zip(*stems.values(), strict=True)])


def _drums(number: int) -> list[int]:
    """Bursts of noise twice a second."""
    state, samples = 12345 + number, []
    for position in range(RATE * SECONDS):
        state = (state * 1103515245 + 12345) % 2**31
        samples.append(((state >> 15) % 16384 - 8192) >> (position % (RATE // 2) // 400))
    return samples


def _bass(number: int) -> list[int]:
    """A triangle wave with another pitch every second."""
    samples = []
    for position in range(RATE * SECONDS):
        period = (100, 80, 66, 100, 75, 50)[(position // RATE + number) % 6]
        phase = position % period
        samples.append(abs(phase * 2 - period) * 8000 // period - 4000)
    return samples


def _write(path: Path, samples: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


# --- results --------------------------------------------------------------------------------------------------


def all_results(folder: Path) -> Iterator[tuple[Step, Results]]:
    """Every step with what it makes, in the order of the road."""
    write_inputs(folder / "songs")
    store = str(folder / "store")
    torch.manual_seed(0)
    network = build("htdemucs-tiny", sources=SOURCES, sample_rate=RATE, **MODEL).eval()
    model = str(checkpoint.save(folder / "model", network))
    corpus = ingest.CorpusConfig(root=str(folder / "songs"), sources=SOURCES)
    ingested = ingest.run(corpus, ingest.IngestConfig(sample_rate=RATE, chunk_s=2), store=store)
    songs = read_songs(ingested.chunks)
    yield ingest.SONG, {song.track_id: _exact(read_song(song)) for song in songs}
    yield ingest.DATASET, {song.track_id: [song.title, song.split, song.license] for song in songs}

    measured = signal_stats.run(QualityRules(), songs, sources=SOURCES, mixtures=ingested.mixtures, store=store)
    yield (
        signal_stats.STEP,
        {
            name: {"measures": dict(one.measures), "landmarks": float(len(one.signature))}
            for name, one in measured.items()
        },
    )
    curated = curate.run(curate.CurateConfig(), ingested, store=store, require=())
    verdicts = [[one.track_id, one.split, one.reason] for one in read_objects(curated.verdicts, Verdict)]
    drawn = assign_splits([f"Artist {n} - Song" for n in range(9)], seed=1, valid_fraction=0.2, test_fraction=0.2)
    yield curate.STEP, {"verdicts": verdicts, "drawn": {name: side for name, (side, _) in drawn.items()}}
    yield curation_page.STEP, {"words": _words(Path(curated.page).read_text(encoding="utf-8"))}
    levels = label_check.run(
        {songs[0].audio: songs[0]}, label_check.label_model(model), sources=SOURCES, store=store,
        num_workers=1, use_gpu=False, batch_size=1,
    )  # fmt: skip
    yield (
        label_check.STEP,
        {name: float(np.mean(getattr(levels[songs[0].audio], name))) for name in ("own_NS", "heard_NSS")},
    )
    held = training_recordings.Ancestry(stored={song.audio: song for song in songs})
    sounds = training_recordings.sounds(held, [songs[0].audio], tables=store)
    yield training_recordings.STEP, {"landmarks": float(len(sounds[songs[0].audio]))}

    profiles = analyze.run(analyze.AnalyzeConfig(), ingested.chunks, store=store)
    yield analyze.STEP, {one.track_id: _profile(one) for one in read_objects(profiles, Profile)}
    mixes = automix.run(
        automix.AutomixConfig(mixes_per_track=1, rules=MixRules(min_cover=0.1, max_semitones=6)),
        ingested.chunks,
        _steady(read_objects(profiles, Profile), store),
        store=store,
    )
    yield automix.PLAN, {one.mix_id: asdict(one) for one in read_objects(mixes.plans, MixPlan)}
    yield automix.STEP, {song.track_id: _levels(read_song(song)) for song in read_songs(mixes.chunks)}

    config = train.TrainConfig(
        steps=4, batch_size=4, checkpoint_every=2, log_every=1, num_workers=0, valid_s=1.0,
        learner=LearnerConfig(
            learning_rate=1e-3, ema_decays=(0.9,), min_lr_ratio=0.1,
            augment=AugmentConfig(shift_s=0.05, remix_group=2),
        ),
    )  # fmt: skip
    trained = train.run(
        config, train.ModelConfig(preset="htdemucs-tiny", options=MODEL), [(ingested.chunks, 1.0)],
        sources=SOURCES, store=store,
    )  # fmt: skip
    curve = [{name: point[name] for name in ("step", "loss", "grad_norm") if name in point}
             for point in train_result.read_history(trained)]  # fmt: skip
    yield train.STEP, {"curve": curve, "best_step": trained.best_step, "best_nsdr": trained.best_nsdr}
    scored = evaluate.run(evaluate.EvaluateConfig(num_workers=1, shifts=1), model, ingested.chunks, store=store)
    names = ("nsdr", "mixture_nsdr", "sdr", "si_sdr", "level_db")
    rows = read_objects(scored.scores, Score)
    yield evaluate.STEP, {row.source: {name: getattr(row, name) for name in names} for row in rows}
    song = folder / "songs/test/Di - Four/bass.wav"
    stems = separate_songs.run(
        separate_songs.SeparateConfig(device="cpu", shifts=1), [str(song)], model=model, out=str(folder / "stems")
    )
    made = stems.songs[0].files
    yield separate_songs.STEP, {stem: _levels(np.stack([_decoded(path)])) for stem, path in made.items()}
    synthetic.write_corpus(
        folder / "toys", num_songs=1, seed=1, duration_s=2, sample_rate=RATE, splits={}, defects=False
    )
    toys = sorted((folder / "toys").rglob("*.wav"))
    yield SYNTHETIC, {str(path.relative_to(folder / "toys")): _levels(np.stack([_decoded(path)])) for path in toys}


def _steady(profiles: Sequence[Profile], store: str) -> ShardSet:
    """Profiles with beats and keys that are stated, not heard, so that mixes need stretching and transposing."""
    songs = [one for one in profiles if one.split == "train"]
    stated = [
        replace(
            one,
            tempo_bpm=60 / beat_s,
            tempo_confidence=1.0,
            phase_confidence=1.0,
            downbeat_confidence=0.0,
            beats_s=tuple(beat_s * number for number in range(int(SECONDS / beat_s))),
            downbeats_s=(),
            key=key,
            key_confidence=1.0,
            tuning_cents=0.0,
            loudness_db={"drums": -20.0, "bass": -22.0},
        )
        for one, beat_s, key in zip(songs, (0.5, 0.52), ("C major", "D major"), strict=True)
    ]
    return write_table(store, "profiles", table_of(stated, PROFILES), key="stated")


def _decoded(path: str | Path) -> Any:
    return np.concatenate(list(decode_blocks(path, sample_rate=RATE, channels=2)), axis=-1)


def _exact(stems_SCT: Any) -> str:
    """A digest of samples that are 16-bit integers."""
    steps = stems_SCT * 2**15
    assert np.array_equal(steps, np.rint(steps))
    return hashlib.sha256(steps.astype("<i4").tobytes()).hexdigest()[:16]


def _levels(stems_SCT: Any) -> list[float]:
    """Level of each stem in each of eight parts of it: what moves in time or in level shows."""
    parts = np.array_split(stems_SCT, 8, axis=-1)
    return [float(np.sqrt(np.mean(part[s] ** 2))) for s in range(stems_SCT.shape[0]) for part in parts]


def _profile(one: Profile) -> dict[str, Any]:
    content = asdict(one)
    return {name: content[name] for name in sorted(content) if name not in ("track_id", "split")}


def _words(page: str) -> str:
    """A digest of what a page says, without sounds, numbers and keys."""
    said = re.sub(r"<(style|script)\b.*?</\1>|data:[^\"']*|<meta[^>]*>|[-\d.,]+", "", page, flags=re.DOTALL)
    return hashlib.sha256(" ".join(re.sub(r"<[^>]*>", " ", said).split()).encode()).hexdigest()[:16]


# --- comparing and noting -------------------------------------------------------------------------------------


def differences(now: Any, noted: Any, at: str = "") -> Iterator[str]:
    """Where two results differ; floats by more than their last bits may."""
    if isinstance(now, Mapping) and isinstance(noted, Mapping):
        for name in sorted(now.keys() | noted.keys()):
            yield from differences(now.get(name), noted.get(name), f"{at}/{name}")
    elif isinstance(now, (list, tuple)) and isinstance(noted, (list, tuple)) and len(now) == len(noted):
        for place, pair in enumerate(zip(now, noted, strict=True)):
            yield from differences(*pair, f"{at}/{place}")
    elif isinstance(now, float) and isinstance(noted, (int, float)):
        if not (math.isclose(now, noted, rel_tol=1e-3, abs_tol=1e-4) or (math.isnan(now) and math.isnan(noted))):
            yield f"{at}: {noted} was noted, it is {now}"
    elif now != noted:
        yield f"{at}: {noted} was noted, it is {now}"


def read_noted() -> dict[str, Results]:
    return dict(json.loads(NOTED.read_text(encoding="utf-8"))) if NOTED.exists() else {}


def note(results: Mapping[str, Results], *, say: Callable[[str], object] = print) -> int:
    """Add the results of versions that are not noted; 1 where one that is noted has others, which stay as they are."""
    known = read_noted()
    refused = 0
    for words, made in results.items():
        if words not in known:
            known[words] = made
            say(f"noted: {words}")
        elif found := next(differences(made, known[words]), ""):
            refused = 1
            say(f"refused: {words} is noted with other results ({found}); raise a VERSION that it is made of")
    NOTED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return refused


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(note({step.words: made for step, made in all_results(Path(scratch))}))
