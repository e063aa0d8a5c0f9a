"""`make bench-curation`: known faults planted in songs given as stems, and what curation's rules find of them.

Songs are real, rendered (from ../shared/data when it is there) and synthetic. Every other song, in the order of
names, is held out: the weights of `datasets/quality/stem_classifier.py` never saw it, and the tables are about those
songs alone.
Other thresholds were set with all real and rendered songs in view; the held-out synthetic ones are drawn from a seed
of their own. A rule's false alarms are counted on good songs and on songs with another fault. With `--model PATH`
(a checkpoint folder, for instance of `make demo`) the rule that asks a model is held against the swapped songs too.
`--songs FOLDER` takes other songs instead: every folder below it with a `truth.json` and a file for each of the four
stems. Nothing was fitted on them, so all of them count.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode, decode_blocks
from datasets.corpus.synthetic import compose, perform
from datasets.quality.fingerprint import FingerprintExtractor, Signature, find_matches
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.stem_remarks import REMARKS, remarks
from datasets.quality.rules.violations import faults
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from tests.benchmarks.table import Row, figure, show
from tests.datasets import corruptions

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RATE = 44100
SEED = 11
STEM_FOLDERS = ("cc0_album", "lmms_demos", "real_small", "rendered_stems")
TARGETS = {"swapped": 0.95, "silent_source": 0.95, "clipped": 0.95, "misaligned": 0.95, "bleed": 0.9,
           "offset": 0.95, "inverted": 0.95, "dropouts": 0.95, "coarse": 0.95, "one_sided": 0.95,
           "noise": 0.95, "clicks": 0.95, "hum": 0.9}  # fmt: skip
TURNS = {"swapped": 3, "silent_source": 1, "clipped": 2, "bleed": 2, "misaligned": 2, "offset": 1, "inverted": 1,
         "dropouts": 1, "coarse": 1, "one_sided": 1, "noise": 1, "clicks": 2, "hum": 2}  # fmt: skip
OF_SONGS = ("faults", "remarks", "mixture", "bleed", "lossy")  # the parts that hear the songs
BLEED_DB = (-10, -15, -20, -25, -30, -35)
SEMITONES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
KBPS = (64, 96, 128, 192, 256)


@dataclass
class Tally:
    """What one rule found of one fault, over songs."""

    found: int = 0
    planted: int = 0
    false: int = 0
    misses: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.planted)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--model", help="a model that hears the swapped songs too, such as a checkpoint folder")
    parser.add_argument("--songs", type=Path, help="a folder of songs, each with a truth.json: only these are heard")
    parser.add_argument("--index-songs", type=int, default=3500, help="songs in the made-up index of fingerprints")
    names = ["faults", "remarks", "mixture", "bleed", "copies", "lossy", "index", "model"]
    parser.add_argument("--part", action="append", choices=names, help="only this part; may be given several times")
    arguments = parser.parse_args()
    parts = {
        "faults": lambda: _faults(songs),
        "remarks": lambda: _remarks(songs),
        "mixture": lambda: _against_mixtures(songs),
        "bleed": lambda: _bleed_curve(songs),
        "copies": _copies,
        "lossy": lambda: _lossy(songs),
        "index": lambda: _index(arguments.index_songs),
        "model": lambda: _with_model(songs, arguments.model) if arguments.model else iter(()),
    }
    began = time.process_time()
    songs = dict(stems_below(arguments.songs) if arguments.songs else held_out())
    if not songs:
        parser.error(f"--songs {arguments.songs} holds no folder with a truth.json and {', '.join(SOURCES)}")
    wanted = arguments.part or (OF_SONGS if arguments.songs else parts)
    rows = [row for part in wanted for row in parts[part]()]
    if not arguments.part and not arguments.songs:
        rows.append(figure("this bench", time.process_time() - began, "CPU s", target=360.0))
    return show("Curation", rows, arguments.out)


# --- songs --------------------------------------------------------------------------------------------------


def stems_below(root: Path) -> Iterator[tuple[str, Samples]]:
    """Names and stems_SCT of all songs below a folder that have a `truth.json` and a file of each source."""
    for truth in sorted(root.rglob("truth.json")):
        paths = [path for source in SOURCES for path in sorted(truth.parent.glob(f"{source}.*"))[:1]]
        if len(paths) == len(SOURCES):
            stems = [np.concatenate(list(decode_blocks(path, sample_rate=RATE)), axis=1) for path in paths]
            num_samples = min(stem_CT.shape[1] for stem_CT in stems)
            yield str(truth.parent.relative_to(root)), np.stack([stem_CT[:, :num_samples] for stem_CT in stems])


def held_out() -> Iterator[tuple[str, Samples]]:
    """Names and stems_SCT of the songs that no weight was fitted on."""
    yield from multitracks(1)
    for number in range(10):
        yield f"toys/{number}", perform(compose(SEED, f"{number:02d}", 12.0), RATE)


def multitracks(half: int) -> Iterator[tuple[str, Samples]]:
    """Names and stems_SCT of real and rendered songs: every other title, from the first (0) or the second (1) on."""
    for folder in STEM_FOLDERS:
        paths = sorted((DATA / folder / "train").iterdir()) if (DATA / folder).is_dir() else []
        titles = sorted({path.name.split(" (")[0] for path in paths})
        for path in paths:
            if path.name.split(" (")[0] in titles[half::2]:
                stems = [soundfile.read(path / f"{source}.flac", dtype="float32")[0].T for source in SOURCES]
                yield f"{folder}/{path.name}", np.stack(stems)
    for path in sorted((DATA / "musdb_stem_mp4" / "train").glob("*.mp4"))[half::2]:
        yield f"musdb/{path.stem}", np.stack([decode(path, stream=stream)[0] for stream in (1, 2, 3, 4)])


def mixtures() -> Iterator[tuple[str, Samples]]:
    """Names and samples_CT, up to 20 s, of songs that are all different recordings."""
    folders = ("rendered_beatkey", "real_mixtures_beatkey", "cc0_album", "lmms_demos", "real_small")
    paths = [path for folder in folders for path in sorted((DATA / folder).glob("train/*/mixture.*"))]
    titles = set()
    for path in paths:
        title = path.parent.name.split(" (")[0]  # excerpts of one song may share what repeats in it
        if title not in titles:
            titles.add(title)
            yield title, soundfile.read(path, frames=20 * RATE, dtype="float32")[0].T.copy()
    for number in range(10):
        yield f"Toy {number}", perform(compose(SEED, f"{number:02d}", 12.0), RATE).sum(axis=0)


# --- faults of stems ----------------------------------------------------------------------------------------


def _faults(songs: Mapping[str, Samples]) -> Iterator[Row]:
    tallies = {reason: Tally() for reason in TARGETS}
    clock = _Clock()
    for name, stems_SCT in songs.items():
        alive = len(corruptions.sounding(stems_SCT)) == len(stems_SCT)
        clean = _found(stems_SCT, stems_SCT.sum(axis=0), clock)
        for reason in clean & TARGETS.keys():
            if reason != "silent_source" or alive:  # some songs have no vocals
                tallies[reason].false += 1
                tallies[reason].misses.append(f"{name} as it came")
        for reason, turns in TURNS.items():
            for turn in range(turns):
                planted = corruptions.FAULTS[reason](stems_SCT, row_rng(SEED, name, reason, turn), RATE)
                found = _found(planted.stems_SCT, stems_SCT.sum(axis=0), clock)
                tallies[reason].planted += 1
                tallies[reason].found += reason in found
                if reason not in found:
                    tallies[reason].misses.append(f"{name}, stems {planted.places}, not found")
                for other in (found - clean - {reason}) & TARGETS.keys():
                    tallies[other].false += 1
                    tallies[other].misses.append(f"{name} with {reason}")
    for reason, tally in tallies.items():
        for which in ("precision", "recall"):
            value = getattr(tally, which)
            yield figure(f"{reason}, {which} ({tally.planted} planted)", value, "", target=TARGETS[reason], more=True)
        if tally.misses:
            print(f"{reason}: {'; '.join(tally.misses)}", file=sys.stderr)
    yield figure("signal pass, 4 stems", clock.audio_s / clock.cpu_s, "x real time", target=60.0, more=True)


class _Clock:
    audio_s = 0.0
    cpu_s = 0.0


def _found(stems_SCT: Samples, mixture_CT: Samples, clock: _Clock) -> set[str]:
    """The reasons of all rules that the song breaks."""
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    began = time.process_time()
    meter.add(stems_SCT, mixture_CT)
    measures = meter.measures()
    clock.cpu_s += time.process_time() - began
    clock.audio_s += stems_SCT.shape[2] / RATE
    return {fault.reason for fault in faults(measures, QualityRules(), sources=SOURCES)}


def _remarks(songs: Mapping[str, Samples]) -> Iterator[Row]:
    """Remarks on stems that are as they came, and on each sounding stem changed in each way."""
    as_they_came = {name: _remarked(stems_SCT) for name, stems_SCT in songs.items()}
    stems = [(name, place) for name, stems_SCT in songs.items() for place in corruptions.sounding(stems_SCT)]
    for kind, (remark, change) in corruptions.REMARKED.items():
        tally = Tally(false=sum(name == remark for found in as_they_came.values() for name, _ in found))
        for name, place in stems:
            if (remark, SOURCES[place]) in as_they_came[name]:
                continue
            planted = songs[name].copy()
            planted[place] = change(planted[place], row_rng(SEED, name, kind, place), sample_rate=RATE)
            tally.planted += 1
            tally.found += (remark, SOURCES[place]) in _remarked(planted)
        yield figure(f"{kind}: recall ({tally.planted} stems)", tally.recall, "")
        yield figure(f"{kind}: precision", tally.precision, "")
    for remark in REMARKS:
        there = [f"{name} {source}" for name, found in as_they_came.items() for seen, source in found if seen == remark]
        yield figure(f"stems remarked as {remark} as they came ({len(stems)})", len(there), "stems")
        print(f"{remark}: {'; '.join(there)}", file=sys.stderr)


def _remarked(stems_SCT: Samples) -> set[tuple[str, str]]:
    """Names of the remarks on a song, each with its source."""
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT)
    return {(name, source) for name, source, _ in remarks(meter.measures(), SOURCES)}


def _against_mixtures(songs: Mapping[str, Samples]) -> Iterator[Row]:
    """One stem of a song beside its exact mixture, or a mastered one, changed so that only the mixture can tell.

    A fault counts as found if its stem, and no other, is named.
    """
    some = {name: songs[name][:, :, : 8 * RATE] for name in sorted(songs)[::2]}
    others = [*list(some)[1:], next(iter(some))]
    for master, mastered in corruptions.MASTERS.items():
        false = 0
        tallies = {kind: Tally() for kind in corruptions.AGAINST_MIXTURE}
        for (name, stems_SCT), other in zip(some.items(), others, strict=True):
            mixture_CT = mastered(stems_SCT.sum(axis=0), RATE)
            false += bool(_named(stems_SCT, mixture_CT))
            for kind, plant in corruptions.AGAINST_MIXTURE.items() if master in ("exact", "limited by 6 dB") else ():
                planted = plant(stems_SCT, some[other], row_rng(SEED, name, kind), RATE)
                named = _named(planted.stems_SCT, mixture_CT)
                tallies[kind].planted += 1
                tallies[kind].found += named == {SOURCES[planted.places[0]]}
        yield figure(f"mixture, {master}: good songs dropped ({len(some)})", false, "", target=0)
        for kind, tally in tallies.items():
            if tally.planted:
                yield figure(f"mixture, {master}: {kind}, recall ({tally.planted})", tally.recall, "")


def _named(stems_SCT: Samples, mixture_CT: Samples) -> set[str]:
    """The stems that the mixture speaks against; an empty name for a song that it is unlike as a whole."""
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT, mixture_CT)
    found = faults(meter.measures(), QualityRules(), sources=SOURCES)
    return {fault.source for fault in found if fault.reason in ("unlike_mixture", "misaligned")}


def _bleed_curve(songs: Mapping[str, Samples]) -> Iterator[Row]:
    some = [songs[name] for name in sorted(songs)][::2]
    for kind in ("plain", "spill", "room"):
        for level_db in BLEED_DB:
            hits = 0
            for place, stems_SCT in enumerate(some):
                rng = row_rng(SEED, "bleed", kind, level_db, place)
                planted = corruptions.bleed(stems_SCT, rng, level_db=level_db, kind=kind, sample_rate=RATE)
                meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
                meter.add(planted.stems_SCT[:, :, : 8 * RATE])
                into, onto = (SOURCES[where] for where in planted.places)
                hits += meter.measures().get(f"{into}_bleed_{onto}_db", -90.0) > QualityRules().max_bleed_db
            yield figure(f"bleed at {level_db} dB, {kind}: recall ({len(some)} songs of 8 s)", hits / len(some), "")


def _with_model(songs: Mapping[str, Samples], path: str) -> Iterator[Row]:
    from pipelines.preparation.curate_config import CurateConfig
    from pipelines.preparation.label_check import load
    from pipelines.preparation.label_rule import Levels, confusions, levels_of, matrix

    model, config = load(path), CurateConfig()
    alone, both = Tally(), Tally()
    for name, stems_SCT in songs.items():
        stems = dict(zip(SOURCES, stems_SCT, strict=True))
        heard = levels_of(model, lambda source, stems=stems: iter([stems[source]]), sources=SOURCES, sample_rate=RATE)
        for turn in range(-1, TURNS["swapped"]):
            order = np.arange(len(SOURCES))
            if turn >= 0:
                planted = corruptions.swap_labels(stems_SCT, row_rng(SEED, name, "swapped", turn))
                order[list(planted.places)] = order[list(planted.places)[::-1]]
            levels = Levels(own_NS=heard.own_NS[:, order], heard_NSS=heard.heard_NSS[:, order])
            shares = matrix(levels, silence_db=config.silence_db, heard_db=config.heard_db)
            said = confusions(shares, sources=SOURCES, min_own=config.min_own, max_foreign=config.max_foreign)
            signal = "swapped" in _found(stems_SCT[order], stems_SCT.sum(axis=0), _Clock())
            for tally, found in ((alone, bool(said)), (both, bool(said) or signal)):
                tally.planted += turn >= 0
                tally.found += found and turn >= 0
                tally.false += found and turn < 0
    for words, tally in (("the model", alone), ("the model or the signal", both)):
        yield figure(f"swapped, by {words}: precision", tally.precision, "")
        yield figure(f"swapped, by {words}: recall", tally.recall, "")


# --- copies -------------------------------------------------------------------------------------------------


def _copies() -> Iterator[Row]:
    songs = dict(mixtures())
    originals = {name: _signature(samples_CT) for name, samples_CT in songs.items()}
    kinds: dict[str, Callable[[Samples, np.random.Generator], Samples]] = {
        "exact": lambda x, rng: x,
        "other master": lambda x, rng: corruptions.remaster(x, rng, sample_rate=RATE),
        "mp3 at 64 kbit/s": lambda x, rng: corruptions.transcode(x, codec="mp3", kbps=64, sample_rate=RATE),
        "half of the song": lambda x, rng: corruptions.excerpt(x, rng, share=0.5),
        "a quarter of the song": lambda x, rng: corruptions.excerpt(x, rng, share=0.25),
    }
    for percent in (-3, 3, 5):
        kinds[f"{percent:+d} % tape speed"] = lambda x, rng, by=percent: corruptions.change_speed(
            x, 1 + by / 100, sample_rate=RATE
        )
    kinds["+3 % tempo"] = lambda x, rng: corruptions.change_tempo(x, 1.03, sample_rate=RATE)
    for semitones in SEMITONES:
        kinds[f"+{semitones:g} semitones"] = lambda x, rng, by=semitones: corruptions.transpose(x, by, sample_rate=RATE)
    for kind, change in kinds.items():
        chosen = list(songs) if kind in ("exact", "other master") else list(songs)[::3]
        copies = {f"{name} copy": _signature(change(songs[name], row_rng(SEED, kind, name))) for name in chosen}
        found = {(match.first, match.later) for match in find_matches(originals | copies, min_similarity=0.5)}
        right = {pair for pair in found if pair[1].removesuffix(" copy") == pair[0]}
        asked = kind in ("exact", "other master")
        target = 0.95 if asked else None
        yield figure(f"copies, {kind}: recall ({len(chosen)})", len(right) / len(chosen), "", target=target, more=True)
        precision = len(right) / max(1, len(found))
        yield figure(f"copies, {kind}: precision", precision, "", target=target, more=True)


def _signature(samples_CT: Samples) -> Signature:
    listener = FingerprintExtractor(RATE)
    mono_T = np.ascontiguousarray(samples_CT.mean(axis=0))
    for start in range(0, len(mono_T), RATE):
        listener.add(mono_T[start : start + RATE])
    return listener.signature()


def _lossy(songs: Mapping[str, Samples]) -> Iterator[Row]:
    """Where the spectra end after a lossy round trip, for mixtures that went up to 20 kHz before."""
    whole = [stems_SCT.sum(axis=0)[:, : 6 * RATE] for stems_SCT in songs.values()]
    whole = [samples_CT for samples_CT in whole if _cutoff(samples_CT) > 20000][:8]
    for codec in ("mp3", "aac", "vorbis") if whole else ():
        for kbps in KBPS:
            found = [_cutoff(corruptions.transcode(x, codec=codec, kbps=kbps, sample_rate=RATE)) for x in whole]
            share = float(np.mean(np.array(found) < 20000))
            name = f"{codec} at {kbps} kbit/s: recall at min_cutoff_hz=20000 (median {np.median(found):.0f} Hz)"
            yield figure(name, share, "")


def _cutoff(samples_CT: Samples) -> float:
    meter = StemStatistics(sources=("other",), sample_rate=RATE)
    meter.add(samples_CT[None])
    return meter.measures()["other_cutoff_hz"]


def _index(num_songs: int) -> Iterator[Row]:
    """Time and memory of comparing many songs of four minutes whose landmarks are drawn from those of real ones.

    A drawn landmark has the pitch of one, the reach of another and the hash of a third.
    """
    pool = np.concatenate([_signature(samples_CT)[1:] for _, samples_CT in mixtures()])
    rng, count, length = row_rng(SEED, "index"), 4200, 240 * 43  # 17.5 a second, and frames
    signatures: dict[str, Signature] = {}
    for number in range(num_songs):
        pitch, reach, hashed = (rng.choice(pool, count) >> np.uint64(shift) for shift in (20, 29, 36))
        marks = (
            hashed << np.uint64(36) | reach % np.uint64(128) << np.uint64(29) | pitch % np.uint64(512) << np.uint64(20)
        )
        marks |= rng.integers(0, length, count).astype(np.uint64)
        signatures[f"{number:05d}"] = np.r_[np.uint64(length), marks]
    copied = range(0, num_songs, 100)
    for number in copied:  # every hundredth comes again, with a third of its landmarks
        marks = signatures[f"{number:05d}"]
        signatures[f"{number:05d} copy"] = marks[np.r_[True, rng.random(count) < 0.33]]
    before, began = _peak_mb(), time.process_time()
    found = find_matches(signatures, min_similarity=0.5)
    spent = time.process_time() - began
    right = sum(match.later == f"{match.first} copy" for match in found)
    yield figure(f"comparing {num_songs} made-up songs of 4 min", spent, "CPU s", target=300.0)
    yield figure("its memory beyond the signatures", _peak_mb() - before, "MB")
    yield figure("the signatures", sum(marks.nbytes for marks in signatures.values()) / 1e6, "MB")
    yield figure(f"its copies found ({len(copied)} planted, {len(found) - right} false)", right / len(copied), "")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
