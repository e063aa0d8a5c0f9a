"""Rules of curation from plug-ins: each gets a song and its measures, and gives a sentence where it objects."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from datasets.errors import InputError
from datasets.plugins import Plugin, PluginKind, require

CURATION_RULE = PluginKind(
    noun="curation rule", group="stemline.curation_rules", setting="curate.plugins", error=InputError
)
REASON = "plug_in"  # of `schema.REASONS`


class RuledSong(Protocol):
    """The song that a rule gets: a `Song` of a manifest."""

    @property
    def track_id(self) -> str: ...


def curation_rules(chosen: Sequence[str]) -> list[Plugin]:
    """The rules of these names; InputError where one is not there, or nothing to call."""
    return [rule for name in chosen if (rule := require(CURATION_RULE, name))]


def objection(rules: Sequence[Plugin], song: RuledSong, measures: Mapping[str, float]) -> str:
    """What the first rule says that would drop the song, after its name; empty where none does."""
    for rule in rules:
        sentence = rule.call(song, dict(measures))
        if sentence is not None and not isinstance(sentence, str):
            raise rule.failure(
                f"returned {sentence!r:.60} for {song.track_id!r}: want a sentence that says why the song is dropped, "
                "or None to keep it"
            )
        if sentence:
            return f"{rule.name}: {sentence}"
    return ""
