"""One vocabulary: names and phrases that a newcomer could not guess, and that must not come back.

ALLOWED says what is left of each, by room; a count may only fall. A name is taken out of it when none is left.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.__main__ import VERB_NAMES

ROOMS = ("models", "datasets", "pipelines", "flows", "stemline")

MODULES = [
    "errand",
    "conductor",
    "road",
    "screen",
    "failure",
    "store",
    "sweep",
    "forgetting",
    "side_by_side",
    "deployed",
    "triggers",
    "planning",
    "history",
    "promotions",
    "inventory",
    "services",
    "corpus_view",
    "present_model",
    "trouble",
    "hearing",
    "crosscheck",
    "audition",
    "stems",
    "feed",
    "resume",
    "offsite",
    "measure",
    "paired",
    "museval_files",
    "jobs",
    "provenance",
    "health",
    "ledger",
    "live",
    "reach",
    "record",
    "versus",
    "sounds",
    "dice",
    "songlist",
    "stemnames",
    "labels",
    "singing",
    "rhythm",
    "bars",
    "frames",
    "flac",
    "defects",
    "dialect",
    "interop",
    "recipe",
    "tiled",
    "wholesong",
    "sparse",
]

CLASSES = [
    "Errand",
    "Relay",
    "Waste",
    "Pump",
    "Board",
    "Watch",
    "Silent",
    "Rival",
    "Duel",
    "Listener",
    "Meter",
    "Moment",
    "Fault",
    "TroubleConfig",
    "PartingLayer",
    "Road",
    "Shown",
    "Word",
]

FUNCTIONS = [
    "attend",
    "carry_out",
    "said",
    "held",
    "dice",
    "title_of",
    "as_stored",
    "_dealt_again",
    "_halved",
    "_check_whole",
    "_frozen",
    "written",
    "conducting",
    "hearers",
    "heard_in",
    "parted",
    "present_model",
    "score_two",
    "take_out_song",
]

# These had up to nine meanings each; they are banned in the rooms that are free of them.
LOCALS = ["heard", "made", "told", "said", "asked", "found", "words", "shown", "known", "one", "other", "held"]
FREE_OF_LOCALS = ("models", "pipelines", "flows", "stemline")
# Attributes, arguments and local variables that a class or function declares.
VARIABLES = [
    "by_ear",
    "heard_as",
    "troubles",
    "hang_s",
    "elastic_look_s",
    "copy_to",
    "final_fraction",
    "all_four",
    "pause_h",
    "moved_alias",
    "door",
]

PHRASES = {
    r"(?<! it)(?<! gate) would do\b": "X must be >= 0, got Y",
    r"stands in the (train|valid|test|validation) split": "the train split is empty",
    r"are no rivals": "their sources differ; they cannot be compared",
    r"is no whole number of groups": "must be divisible by {group}",
    r"is no probability": "must be in [0, 1]",
    r"shall lie between": "minimum interval is 24 h",
    r"see the words on the left": "see the message",
    r"blow is told as it falls": "Each injected failure is logged",
    r"memory can be had for time": "trade speed for memory",
    r"nobody is on the valid side": "If the validation split is empty",
    r"MLflow's books": "MLflow database and artifacts",
    r"A person's word": "Manual approval",
    r"in four of five cases": "detectable gain at 80 % power",
    r"in other clothes": "despite EQ, codec, speed or pitch changes",
    r"[Pp]ages for ears": "A/B listening pages",
}

ALLOWED: dict[tuple[str, str], int] = {
    ("pipelines", "variable known"): 1,
    ("pipelines", "variable words"): 1,
}


def _definitions(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, name) of every class, function, argument and assigned name of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name):
                yield "class", name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield "function", name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.alias(asname=str(name)):
                yield "variable", name


def _found_names(repository: Path) -> Counter[tuple[str, str]]:
    seen: Counter[tuple[str, str]] = Counter()
    for room in ROOMS:
        variables = {*VARIABLES, *(LOCALS if room in FREE_OF_LOCALS else ())}
        banned = {"class": set(CLASSES), "function": set(FUNCTIONS), "variable": variables}
        for path in (repository / room).rglob("*.py"):
            # A file of a verb is named as the verb, such as `stemline history`.
            if path.stem in MODULES and not (path.stem in VERB_NAMES and "cli" in path.parts):
                seen[room, f"module {path.stem}"] += 1
            seen.update((room, f"{kind} {name}") for kind, name in _definitions(path) if name in banned[kind])
    return seen


def _found_phrases(repository: Path) -> Counter[tuple[str, str]]:
    seen: Counter[tuple[str, str]] = Counter()
    for room in (*ROOMS, "docs"):
        for path in sorted((repository / room).rglob("*")):
            if path.suffix in (".py", ".md", ".js", ".css", ".toml", ".html", ".j2") and "api" not in path.parts:
                text = " ".join(path.read_text(encoding="utf-8").split())
                seen.update({(room, phrase): len(re.findall(phrase, text)) for phrase in PHRASES})
    return +seen


def _over(seen: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return {found: count for found, count in sorted(seen.items()) if count > ALLOWED.get(found, 0)}


def test_no_module_class_function_or_variable_has_a_banned_name(repository: Path) -> None:
    assert _over(_found_names(repository)) == {}


def test_no_message_and_no_page_uses_a_banned_phrase(repository: Path) -> None:
    assert _over(_found_phrases(repository)) == {}


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("class Errand: ...", "class", "Errand"),
        ("def dice(seed): ...", "function", "dice"),
        ("def f(by_ear): ...", "variable", "by_ear"),
        ("from flows import config as door", "variable", "door"),
        ("class A:\n    hang_s: float = 1.0", "variable", "hang_s"),
    ],
)
def test_a_banned_name_is_seen_wherever_it_is_declared(tmp_path: Path, text: str, kind: str, name: str) -> None:
    (tmp_path / "a.py").write_text(text)
    assert (kind, name) in set(_definitions(tmp_path / "a.py"))
