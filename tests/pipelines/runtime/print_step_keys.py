"""Prints the key of every step for fixed inputs, as JSON: what a commit that changes no result must leave alone.

Keys are asked for at the functions that the steps ask, and of the records that they declare.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets.corpus import synthetic
from datasets.schema import MixPlan, Part, ShardSet, StemFile, Track
from flows.retraining import facts
from flows.tasks import remote_step
from pipelines.evaluation import evaluate, model_compatibility
from pipelines.inference import listening_pages, separate_songs
from pipelines.lineage import training_recordings
from pipelines.preparation import analyze, automix, curate, ingest, label_check, signal_stats
from pipelines.report.ab_page import ABEntry
from pipelines.report.curation import curation_page
from pipelines.runtime import step_keys
from pipelines.training import train

SONGS = ShardSet(uri="manifests/curate-k.json", table="chunks", num_rows=1, digest="d")
TRACK = Track(
    track_id="song", title="t", group="g", split="train", license="l", layout="folders", fingerprint="f",
    stems={"drums": (StemFile(path="drums.wav", stream=1, side="left"),)},
)  # fmt: skip
PART = Part(**{name: 0 for name in Part.__dataclass_fields__} | {"track_id": "song", "source": "drums"})
PLAN = MixPlan(**{name: "m" for name in MixPlan.__dataclass_fields__} | {"parts": (PART,)})


def all_keys() -> dict[str, str]:
    """Keys of fixed inputs by the name of the step."""
    config = ingest.IngestConfig()
    song_key = ingest.song_key(TRACK, config, ("drums",))
    resampling = model_compatibility.Resampling(song_rate=1, model_rate=2)
    scored = evaluate.EvaluateSongInputs(model="m", audio="a", protocol="p", columns=("c",), resampling=resampling)
    job = train.Job(
        config=train.TrainConfig(), model=train.ModelConfig(), sources=("drums",), chunks=((SONGS, 0.5),), keep=None
    )
    run_config: Any = SimpleNamespace(
        corpus=ingest.CorpusConfig(), analyze=analyze.AnalyzeConfig(), automix=automix.AutomixConfig(),
        automix_weight=0.5, model=train.ModelConfig(), train=train.TrainConfig(),
    )  # fmt: skip
    records: list[tuple[step_keys.Step, Any, Any]] = [
        (
            ingest.DATASET,
            ingest.IngestInputs(songs=((song_key, "i"),), rejected=(), about={"a": 1}, forgotten=("f",)),
            None,
        ),
        (
            signal_stats.STEP,
            signal_stats.SignalStatsInputs(
                audio="a", sources=("drums",), mixture=signal_stats.contents(TRACK.stems["drums"]), silence_db=-40.0
            ),
            None,
        ),
        (label_check.STEP, label_check.LabelCheckInputs(audio="a", sources=("drums",), model="m"), None),
        (
            curate.STEP,
            curate.CurateInputs(
                dataset="d",
                songs="s",
                mixtures={"a": ("c 0",)},
                model=label_check.STEP.versions,
                by_hand="",
                forgotten=(),
            ),
            asdict(curate.CurateConfig()),
        ),
        (curation_page.STEP, curation_page.CurationPageInputs(curation="k"), None),
        (analyze.STEP, analyze.AnalyzeSongInputs(track_id="i", split="train", audio="a"), analyze.AnalyzeConfig()),
        (automix.PLAN, automix.PlanInputs(profiles="p", sources=("drums",), sample_rate=1), automix.AutomixConfig()),
        (automix.STEP, automix.ShardInputs(schema_version=1, chunk_s=2, plans=(PLAN,), songs=(("i", "a"),)), None),
        (evaluate.STEP, evaluate.EvaluateInputs(dataset="d", songs=(("i", scored),)), None),
        (separate_songs.STEP, separate_songs.SeparateInputs(model="m", song="s"), separate_songs.SeparateConfig()),
        (
            listening_pages.STEP,
            listening_pages.ListenInputs(
                models=("a", "b"),
                names=("x", "y"),
                protocol="p",
                seconds=1.0,
                audio="a",
                license="l",
                around=("", ""),
                entry=ABEntry(file="f", title="t", gain=1.0, scores={"drums": (1.0, 2.0)}),
                resampling=(resampling, None),
            ),
            None,
        ),
        (training_recordings.STEP, training_recordings.AncestryInputs(audio="a"), None),
        (remote_step.STEP, remote_step.JobInputs(step="ingest", arguments={"config": {"a": 1}}), None),
    ]
    return {
        **{step.name: step.key(inputs, settings) for step, inputs, settings in records},
        ingest.SONG.name: song_key,
        train.STEP.name: train.key_of(job),
        facts.RECIPE.name: facts.recipe(run_config),
        "synthetic": str(synthetic.VERSION),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"root": str(Path(step_keys.__file__).parents[2]), "keys": all_keys()}))
