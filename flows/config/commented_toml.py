"""A file of settings for people to edit: those that matter for a corpus, each with what it does and may be."""

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from flows.config.presets import with_absolute_paths
from flows.config.run_config import RunConfig
from flows.config.setting_descriptions import Setting, every, summary
from flows.config.setting_names import value_at
from flows.config.setting_overrides import override
from flows.config.settings_schema import meaning

WIDTH = 120
# What depends on the corpus, the machines and the team; the others have values that most keep.
THAT_MATTER = (
    "automix_weight", "store.root", "corpus.root", "corpus.sources", "corpus.unknown", "corpus.license",
    "corpus.valid_fraction", "corpus.test_fraction", "ingest.sample_rate", "ingest.channels", "curate.min_presence",
    "curate.max_bleed_db", "curate.drop_for", "curate.overrides", "automix.mixes_per_track", "model.preset",
    "model.init_from", "train.steps", "train.batch_size", "train.micro_batch", "train.num_workers", "train.use_gpu",
    "train.checkpoint_every", "train.valid_songs", "train.learner.learning_rate", "train.learner.precision",
    "evaluate.max_song_s", "evaluate.use_gpu", "gate.min_songs", "gate.min_improvement", "gate.approval",
    "registry.name", "retrain.new_hours", "retrain.max_age_days",
)  # fmt: skip


def commented_toml(config: RunConfig, heading: Iterable[str]) -> str:
    """Those settings, and all that differ from their defaults, so that a run with this file is one with `config`.

    Args:
        heading: lines of the comment at the top.
    """
    by_default = with_absolute_paths(RunConfig())
    settings = list(every(RunConfig))
    sections = list(dict.fromkeys(_section_of(setting) for setting in settings))
    listed = [
        setting
        for setting in settings
        if setting.name in THAT_MATTER or value_at(config, setting.name) != value_at(by_default, setting.name)
    ]
    listed.sort(key=lambda setting: sections.index(_section_of(setting)))  # TOML takes each section once
    lines = [f"# {line}".rstrip() for line in heading]
    for section, inside in groupby(listed, key=_section_of):
        lines += ["", *_comment(summary(RunConfig, section)), f"[{section}]"] if section else []
        for setting in inside:
            lines += _setting(setting, value_at(config, setting.name), value_at(by_default, setting.name))
    return "\n".join(lines) + "\n"


def _section_of(setting: Setting) -> str:
    return setting.name.rpartition(".")[0]


def _setting(setting: Setting, value: Any, default: Any) -> Iterator[str]:
    may_be = ", ".join(filter(None, (setting.type, setting.range)))
    unless = f"; default {override('', default).removeprefix('=')}" if value != default else ""
    yield ""
    yield from _comment(f"{meaning(setting)} ({may_be}{unless})")
    yield override(setting.name.rpartition(".")[2], value).replace("=", " = ", 1)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)]
