"""A version's card as Markdown: MLflow's description of it, and a README for Hugging Face.

Names of songs, licences and reasons are anybody's text: they are escaped in Markdown, and written by a YAML library in
the front matter.
"""

import math
from collections.abc import Iterator

import yaml  # type: ignore[import-untyped,unused-ignore]

from flows.config import RunConfig
from flows.console.markdown import literal
from pipelines import registry
from pipelines.registry import ModelVersion
from pipelines.report.model_card import ModelCard, card_of

_AUDIBLE_DB = -60.0  # of leakage, relative to the mixture


def describe_version(config: RunConfig, version: ModelVersion) -> None:
    """Make its card the description of a version in the registry."""
    registry.set_description(version.uri, markdown(card(config, version.uri)), store=config.store.root)


def card(config: RunConfig, ref: str) -> ModelCard:
    """The facts of a registered version."""
    return card_of(ref, store=config.store.root, tables=config.store.tables, license=config.registry.license)


def markdown(card: ModelCard) -> str:
    """The card as people read it."""
    parts = (_what(card), _gate(card), _songs(card), _scores(card), _failures(card), _listen(card), _origin(card))
    return "\n\n".join(filter(None, parts)) + "\n"


def hugging_face(card: ModelCard) -> str:
    """The card as README.md of a model on Hugging Face: YAML, then Markdown."""
    front = {
        "license": card.license or "unknown",
        "library_name": "stemline",
        "pipeline_tag": "audio-to-audio",
        "tags": ["audio-source-separation", "music-source-separation", *card.sources],
    }
    results = [
        {
            "task": {"type": "audio-to-audio", "name": "Music source separation"},
            "dataset": {"type": "held-out-songs", "name": f"{card.num_songs} held-out songs"},
            "metrics": [
                {"type": "nsdr", "name": f"nSDR, {score.source} (dB)", "value": round(score.nsdr, 2)}
                for score in card.scores
            ],
        }
    ]
    index = {"model-index": [{"name": card.name, "results": results}]} if card.scores else {}
    header = yaml.safe_dump({**front, **index}, sort_keys=False, default_flow_style=False)
    return f"---\n{header}---\n\n# {literal(card.name)}, version {card.version}\n\n{markdown(card)}"


def _what(card: ModelCard) -> str:
    sources = [literal(source) for source in card.sources]
    listed = " and ".join(filter(None, [", ".join(sources[:-1]), *sources[-1:]]))
    rate = f" at {int(card.tags['sample_rate']) / 1000:g} kHz" if card.tags.get("sample_rate", "").isdigit() else ""
    network = card.settings.get("model.preset", "")
    sentence = f"Separates songs into {listed or 'their sources'}{rate}."
    return sentence + (f" Network: {literal(network)}." if network else "")


def _gate(card: ModelCard) -> str:
    if card.decision is None:
        return "**Gate:** not decided yet."
    checks, reason = card.decision.get("checks", ()), str(card.decision["reason"])
    past = any(check["rule"] == "force" for check in checks)
    verdict = "passed over, promoted by name" if past else "promoted" if card.promoted else "refused"
    lines = [f"**Gate:** {verdict}. {literal(reason)}"]
    failed = [check for check in checks if not check["met"] and check["message"] != reason]
    lines += [f"- {literal(str(check['rule']))}: {literal(str(check['message']))}" for check in failed]
    return "\n".join(lines)


def _songs(card: ModelCard) -> str:
    lines = ["## Songs that it learned from", ""]
    if card.splits:
        train, valid = card.splits.get("train", 0), card.splits.get("valid", 0)
        lines.append(f"Trained on {_count(train)}, and selected by {_count(valid)} for validation.")
    if card.began_from:
        lines.append(f"It began from the weights of {', '.join(map(literal, card.began_from))}, whose songs count too.")
    if card.taught_by:
        teachers = ", ".join(map(literal, card.taught_by))
        lines.append(f"It learned from stems that {teachers} estimated, whose songs count too.")
    lines += ["", "| licence | songs | hours |", "|---|---:|---:|"]
    for license, group in card.licenses.songs.items():
        lines.append(f"| {literal(license)} | {group.num_songs} | {group.hours:.2f} |")
    lines.append(f"| all | {card.licenses.num_songs} | {card.licenses.hours:.2f} |")
    if card.licenses.non_commercial:
        count = card.licenses.non_commercial
        lines += ["", f"**Non-commercial:** the licences of {_count(count)} forbid commercial use."]
    if card.licenses.not_known:
        lines += ["", f"The licence of {_count(card.licenses.not_known)} is not known."]
    for gap in card.licenses.gaps:
        lines += ["", f"Not known: {literal(gap)}."]  # a line behind a table's last would be a row of it
    return "\n".join(lines)


def _scores(card: ModelCard) -> str:
    if not card.scores:
        return ""
    lines = [
        "## Scores", "",
        f"nSDR in dB over {_count(card.num_songs)} kept from its training, and the 95 % interval for other such songs.",
        "", "| source | songs | nSDR | interval | mixture as estimate |", "|---|---:|---:|---|---:|",
    ]  # fmt: skip
    for score in card.scores:
        bounded = math.isfinite(score.low) and math.isfinite(score.high)
        interval = f"{score.low:.2f} to {score.high:.2f}" if bounded else "too few songs"
        floor = "–" if score.mixture_nsdr is None else f"{score.mixture_nsdr:.2f}"
        cells = (literal(score.source), score.num_songs, f"{score.nsdr:.2f}", interval, floor)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if card.left_out:
        lines += ["", f"Left out: {_count(card.left_out)} that it, or the champion, learned from."]
    return "\n".join([*lines, "", f"Protocol: {literal(card.protocol)}."])


def _failures(card: ModelCard) -> str:
    lines = list(_failure_lines(card))
    return "\n".join(["## Known failures", "", *lines]) if lines else ""


def _failure_lines(card: ModelCard) -> Iterator[str]:
    if card.below_mixture:
        yield f"- In {card.below_mixture} of {_count(card.num_songs)} the unprocessed mixture scores higher."
    for song in card.worst:
        gain = f"{song.improvement:+.2f} dB against the mixture"
        yield f"- {literal(song.title)}: {song.nsdr:.2f} dB nSDR, {gain}, among the worst."
    for leak in card.leaks:
        if leak.leakage_db > _AUDIBLE_DB:
            where = f"where {literal(leak.source)} is silent, {leak.leakage_db:.1f} dB relative to the mixture"
            yield f"- It leaks {where} ({literal(leak.song)}, the loudest leak)."
    for source in card.silent_sources:
        yield f"- {literal(source)} sounds in none of the scored songs: nothing is known of it."


def _listen(card: ModelCard) -> str:
    files = card.files
    if not files.paths:
        return ""
    listed = [
        f"- [{literal(path)}]({files.link}/{path})" if files.link else f"- {literal(path)} of MLflow run {files.run_id}"
        for path in files.paths
    ]
    return "\n".join(["## Listen and read", "", *listed])


def _origin(card: ModelCard) -> str:
    rows = [("commit", "commit"), ("dataset", "dataset_digest"), ("weights", "weights_digest"), ("run", "run_key")]
    named = [f"{name} {literal(card.tags[tag])}" for name, tag in rows if card.tags.get(tag)]
    line = f"Made from {', '.join(named)}; all else: `stemline lineage {card.uri}`." if named else ""
    return "\n".join(
        ["## Use", "", f"`mlflow.pyfunc.load_model(\"{card.uri}\").predict(mixtures)`: float32 of shape (songs, "
         "channels, samples) in, (songs, sources, channels, samples) out.", *(["", line] if line else [])]
    )  # fmt: skip


def _count(songs: int) -> str:
    return f"{songs} song{'' if songs == 1 else 's'}"
