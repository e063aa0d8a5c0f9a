"""What curation would keep with one of its rules off: "curate.min_presence=0 keeps 34 more"."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from datasets.quality.rules.quality_rules import SWITCHED_OFF, in_toml
from datasets.quality.rules.violations import faults
from datasets.schema import Verdict
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.song_rules import JudgedSong, curation_rules, objection

KEEPS_COPIES = "curate.min_similarity=2"


def let_in(
    config: CurateConfig, songs_judged: Sequence[JudgedSong], verdicts: Sequence[Verdict], sources: Sequence[str]
) -> dict[str, set[str]]:
    """The dropped songs that break no other rule, by the setting that switches the one off.

    Copies among them are not looked for. Songs that a person decided on, or that are to be forgotten, stay out.
    """
    judged = {item.song.track_id: item for item in songs_judged}
    result: dict[str, set[str]] = {}
    for reason in sorted({verdict.reason for verdict in verdicts if not verdict.keep} & SWITCHED_OFF.keys()):
        dropped = {verdict.track_id for verdict in verdicts if not verdict.keep and verdict.reason == reason}
        most = 0
        for settings in SWITCHED_OFF[reason]:
            relaxed = replace(config, **settings)
            names = {name for name in dropped if _passes(judged[name], relaxed, sources)}
            if len(names) > most:  # a second setting is worth its line only if it keeps more
                result[in_toml(settings)] = names
                most = len(names)
    return result


def in_words(would_keep: Mapping[str, int]) -> list[str]:
    """A line for each setting, the one that keeps the most first."""
    ordered = sorted(would_keep.items(), key=lambda item: (-item[1], item[0]))
    return [f"{settings} keeps {count} more" for settings, count in ordered]


def _passes(item: JudgedSong, config: CurateConfig, sources: Sequence[str]) -> bool:
    """Whether a song breaks no rule; one that the model hears as something else passes once no model is asked."""
    if item.reason == "mislabelled" and config.model:
        return False
    if faults(item.measures, config, sources=sources):
        return False
    return not objection(curation_rules(config.plugins), item.song, item.measures)
