"""The rules on one song: the first that it breaks, on its signal or on its labels, and the seconds that show it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from datasets.errors import InputError
from datasets.quality.against_mixture.mixture_fit import MIN_COMPARED_S
from datasets.quality.fingerprint import MIN_INLIERS, Signature
from datasets.quality.rules import stem_remarks
from datasets.quality.rules.quality_rules import SWITCHED_OFF, in_toml
from datasets.quality.rules.violations import RuleViolation, faults
from datasets.quality.stem_classifier import LABELS
from datasets.quality.stem_defects.hum import MIN_S as MIN_HUM_S
from datasets.shards.manifests import Song
from models.plugins import Plugin, PluginKind, require
from pipelines.preparation import label_check, label_rule
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.label_check import LabelModel
from pipelines.preparation.label_rule import Confusion, Levels, Shares
from pipelines.preparation.signal_stats import SongStats
from pipelines.report.curation.page_input import Evidence
from pipelines.runtime.progress import Progress

CURATION_RULE = PluginKind(
    noun="curation rule", group="stemline.curation_rules", setting="curate.plugins", error=InputError
)
_FOR_THE_MODEL = ("", "swapped")  # signal alone is no proof of a wrong name
_INAUDIBLE = 1e-4  # of full scale; a player turns quiet stems up by 24 dB, which leaves this at -56


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSong:
    """What was measured of one song, and what the rules make of it."""

    song: Song
    measures: Mapping[str, float]
    signature: Signature
    stem_signatures: Mapping[str, Signature]
    shares_SS: Shares | None = None  # what a model hears in its stems
    reason: str = ""
    detail: str = ""
    remark: str = ""  # what is odd about its stems, and what could not be judged, and why
    evidence: tuple[Evidence, ...] = ()


def judged(song: Song, stats: SongStats, config: CurateConfig, sources: Sequence[str]) -> JudgedSong:
    """The song with the first rule on its signal that it breaks, and the worst second of every such stem."""
    broken = faults(stats.measures, config, sources=sources, moments=stats.moments)
    first = [fault for fault in broken if fault.reason == broken[0].reason]
    return JudgedSong(
        song=song,
        measures=stats.measures,
        signature=stats.signature,
        stem_signatures=stats.stem_signatures,
        reason=broken[0].reason if broken else "",
        detail="; ".join([*(fault.detail for fault in first), *_allowed_by(broken)]),
        remark=_remark(stats, config, sources, first),
        evidence=tuple(_moments(first, stats)),
    )


def ruled(item: JudgedSong, rules: Sequence[Plugin]) -> JudgedSong:
    """The song after the rules of plug-ins, which are asked about songs that break none of ours."""
    sentence = "" if item.reason else objection(rules, item.song, item.measures)
    return replace(item, reason="plug_in", detail=sentence) if sentence else item


def curation_rules(chosen: Sequence[str]) -> list[Plugin]:
    """The plug-ins of these names; InputError where one is not there, or nothing to call."""
    return [rule for name in chosen if (rule := require(CURATION_RULE, name))]


def objection(rules: Sequence[Plugin], song: Song, measures: Mapping[str, float]) -> str:
    """What the first rule says that would drop the song, after its name; empty where none does.

    A rule is called with the song and its measures, and gives a sentence that says why it is dropped, or None.
    """
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


def _allowed_by(broken: Sequence[RuleViolation]) -> list[str]:
    """The setting that keeps a song as it is, where it breaks one rule alone: genres may do so by design."""
    reasons = {fault.reason for fault in broken}
    return [f"allowed by {in_toml(SWITCHED_OFF[reason][-1])}" for reason in reasons] if len(reasons) == 1 else []


def _remark(stats: SongStats, config: CurateConfig, sources: Sequence[str], broken: Sequence[RuleViolation]) -> str:
    """What is odd and no rule, and what could not be judged: a song that is too short for a rule did not pass it.

    What the rules that it is dropped for say of a stem is not said twice.
    """
    about_stems = stem_remarks.remarks(stats.measures, sources)
    clipped = {fault.source for fault in broken if fault.reason == "clipped"}
    odd = [
        sentence
        for name, source, sentence in about_stems
        if name not in config.drop_for and not (name == "flattened" and source in clipped)
    ]
    return "; ".join([*odd, *_without_mixture(stats), *_too_short(stats, sources)])


def _without_mixture(stats: SongStats) -> Iterator[str]:
    if stats.measures.get("compared_s", MIN_COMPARED_S) < MIN_COMPARED_S:
        yield f"too short to be compared with the mixture that came with it, which takes {MIN_COMPARED_S:g} s"
    elif stats.broken or stats.unread:
        next_time = "; the next run tries again" if stats.unread else ""
        yield f"not compared with the mixture that came with it: {stats.broken or stats.unread}{next_time}"


def _too_short(stats: SongStats, sources: Sequence[str]) -> Iterator[str]:
    audible = [source for source in sources if stats.measures[f"{source}_presence"] > 0]
    nameless = [
        source
        for source in audible
        if f"{source}_noise" in stats.measures and f"{source}_as_{LABELS[0]}" not in stats.measures
    ]
    if nameless:
        yield f"too short to judge the names of: {', '.join(nameless)}"
    if brief := [source for source in audible if 0 < stats.measures.get(f"{source}_hum_heard_s", 0) < MIN_HUM_S]:
        yield f"too short to judge hum, which takes {MIN_HUM_S} s of sound: {', '.join(brief)}"
    if len(stats.signature) - 1 < MIN_INLIERS:
        yield f"too short to be recognized as a copy, which takes {MIN_INLIERS} landmarks"


def _moments(broken: Sequence[RuleViolation], stats: SongStats) -> Iterator[Evidence]:
    """The worst seconds of each fault, the middle of the song for one that is everywhere; none of pure silence."""
    for fault in broken:
        if fault.source and stats.measures[f"{fault.source}_peak"] < _INAUDIBLE:
            continue
        middle_s = stats.measures["duration_s"] / 2
        worst = fault.worst(stats.moments)
        start_s, stop_s = (worst[0].start_s, worst[0].stop_s) if worst else (middle_s, middle_s)
        hint = f"with {fault.other} in it" if fault.other else ""
        yield Evidence(source=fault.source, start_s=start_s, stop_s=stop_s, words=hint)


def cross_checked(
    songs_judged: Sequence[JudgedSong],
    config: CurateConfig,
    model: LabelModel,
    sources: Sequence[str],
    store: str,
    progress: Progress | None,
) -> list[JudgedSong]:
    """The same; songs that break no rule so far, or that of likely names alone, are played to the model."""
    to_check = {item.song.audio: item.song for item in songs_judged if item.reason in _FOR_THE_MODEL}
    levels = label_check.run(
        to_check,
        model,
        sources=sources,
        store=store,
        num_workers=config.num_workers,
        use_gpu=config.use_gpu,
        batch_size=config.batch_size,
        progress=progress,
    )
    return [
        _labelled(item, levels[item.song.audio], config, sources) if item.reason in _FOR_THE_MODEL else item
        for item in songs_judged
    ]


def _labelled(item: JudgedSong, levels: Levels, config: CurateConfig, sources: Sequence[str]) -> JudgedSong:
    """The song with the label rule applied to what the model heard."""
    shares_SS = label_rule.matrix(levels, silence_db=config.silence_db, heard_db=config.heard_db)
    item = replace(item, shares_SS=shares_SS)
    confusions = label_rule.confusions(
        shares_SS, sources=sources, min_own=config.min_own, max_foreign=config.max_foreign
    )
    if not confusions:
        detail = f"{item.detail}; the model hears every stem as what it is called" if item.reason else ""
        return replace(item, detail=detail)
    detail = label_rule.in_words(confusions, max_foreign=config.max_foreign)
    evidence = tuple(_worst(levels, confusion, config, sources) for confusion in confusions)
    return replace(item, reason="mislabelled", detail=detail, evidence=evidence)


def _worst(levels: Levels, confusion: Confusion, config: CurateConfig, sources: Sequence[str]) -> Evidence:
    index, predicted_as = sources.index(confusion.source), sources.index(confusion.predicted_as or confusion.source)
    second = label_rule.worst_second(levels, index=index, predicted_as=predicted_as, silence_db=config.silence_db)
    return Evidence(source=confusion.source, start_s=second, stop_s=second + 1.0, words=f"called {confusion.source}")
