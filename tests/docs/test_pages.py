"""Pages keep to their kind: guides are short and undated, and every command, setting and link on a page exists."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from datasets.schema import SOURCES
from flows.__main__ import app
from flows.config import RunConfig, setting_descriptions
from models.networks import catalog
from models.networks.catalog import FAMILIES
from models.weights import checkpoint

MOST_WORDS = 1500
# The version of the language of policies at AWS is a date
UNDATED = re.compile(
    r"(?<!\"Version\": \")\b20\d\d-\d\d-\d\d\b|\bcommit [0-9a-f]{6,}|\bload (?:of )?\d|\bbeside (?:the soak|other jobs)"
)
HISTORY = {"log.md", "results.md", "changelog.md"}  # which speak of the past, in its words


def guides(docs: Path) -> list[Path]:
    return sorted(path for name in ("tutorials", "how-to") for path in (docs / name).glob("*.md"))


def pages(docs: Path) -> list[Path]:
    """What is written by hand and true today: neither history nor decisions, which say what was."""
    found = [path for path in docs.rglob("*.md") if "decisions" not in path.parts and "api" not in path.parts]
    return [path for path in sorted(found) if path.name not in HISTORY] + [docs.parent / "README.md"]


def test_guides_are_short(docs: Path) -> None:
    found = guides(docs)
    assert len(found) > 12
    assert {path.name: n for path in found if (n := len(path.read_text(encoding="utf-8").split())) > MOST_WORDS} == {}


def test_guides_name_no_date_commit_or_load_of_a_machine(docs: Path) -> None:
    found = {path.name: UNDATED.findall(path.read_text(encoding="utf-8")) for path in guides(docs)}
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize("text", ["as of 2026-11-23", "commit 8704c9a", "(load 8 to 13)", "beside the soak"])
def test_what_dates_a_page_is_recognized(text: str) -> None:
    assert UNDATED.search(text)


def commands(text: str) -> Iterator[list[str]]:
    """The words after `stemline` of each command in blocks and in `code`."""
    blocks = [line for block in re.findall(r"```(?:shell)?\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in "\n".join([*blocks, *inline]).replace("\\\n", " ").splitlines():
        found = re.match(r"(?:\$ )?(?:\.venv/bin/)?stemline (.*)", line.strip())
        if found:
            yield shlex.split(found[1], comments=True)


def test_every_command_names_a_verb_and_options_that_exist(docs: Path, reference: Any) -> None:
    known = {verb.name: {name for one in verb.arguments for name in one.names} for verb in reference.verbs()}
    wrong, seen = [], set()
    for path in pages(docs):
        for words in commands(path.read_text(encoding="utf-8")):
            verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            if verb in ("VERB", "--help", "--install-completion"):
                continue
            options = {word for word in words if word.startswith("--")}
            if verb not in known or not options <= known[verb]:
                wrong.append((path.name, " ".join(words)))
            seen.add(verb)
    assert wrong == []
    assert len(seen) > 20


def test_every_whole_command_is_understood(docs: Path) -> None:
    for path in pages(docs):
        blocks = re.findall(r"```(?:shell)?\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        for block in blocks:
            for words in commands(f"```\n{block}```"):
                app.parse_args([word for word in words if word], exit_on_error=False, print_error=False)


def test_every_setting_on_a_page_exists(docs: Path) -> None:
    names = {one.name for one in setting_descriptions.every(RunConfig)}
    options = {one.name for family in FAMILIES.values() for one in setting_descriptions.every(family.config_class)}
    names |= {f"model.options.{name}" for name in options}
    sections = {name.rpartition(".")[0] for name in names} | {name.split(".")[0] for name in names if "." in name}
    wrong = []
    for path in pages(docs):
        text = path.read_text(encoding="utf-8")
        for key in re.findall(r"(?<![\w/.*:-])([a-z]\w*(?:\.\w+)+)(?==)", text) + re.findall(
            r"`([a-z]\w*(?:\.\w+)+)`", text
        ):
            if key.split(".")[0] in sections and key not in names | sections and not _is_file(key):
                wrong.append((path.name, key))
    assert wrong == []


def _is_file(name: str) -> bool:
    return name.rpartition(".")[2] in {"py", "md", "html", "json", "toml", "csv", "pt", "wav", "yaml", "jsonl"}


def test_every_test_and_module_on_a_page_exists(docs: Path) -> None:
    roots = r"(?:flows|pipelines|datasets|models|infra|stemline|tests|docs)"
    for path in pages(docs):
        for name in re.findall(rf"`(?:pytest )?({roots}/[\w./-]+)[ `]", path.read_text(encoding="utf-8")):
            assert (docs.parent / name).exists(), (path.name, name)


@pytest.mark.parametrize("name", ["docs/explanation/code.md", "README.md", "CONTRIBUTING.md"])
def test_every_python_file_that_is_named_exists(repository: Path, name: str) -> None:
    """With as much of its path as is given: `layouts/find.py` is some `.../layouts/find.py`."""
    rooms = ("flows", "pipelines", "datasets", "models", "infra", "stemline", "tests", "docs")
    known = [f"/{path.relative_to(repository)}" for room in rooms for path in (repository / room).rglob("*.py")]
    named = re.findall(r"`([\w/]+\.py)`", (repository / name).read_text(encoding="utf-8"))
    assert [file for file in named if not any(path.endswith(f"/{file}") for path in known)] == []


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "explanation", "decisions"])
def test_an_index_links_to_each_page_of_its_folder_by_its_title(docs: Path, folder: str) -> None:
    """Plainly, for whoever reads it outside of the site."""
    index = (docs / folder / "index.md").read_text(encoding="utf-8")
    listed = {name: title for title, name in re.findall(r"^- \[(.+)\]\(([\w-]+\.md)\)$", index, re.MULTILINE)}
    found = [path for path in (docs / folder).glob("*.md") if path.name != "index.md"]
    assert listed == {path.name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for path in found}


def test_every_make_target_on_a_page_exists(docs: Path) -> None:
    makefile = (docs.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z%-]+):", makefile, re.MULTILINE))
    for path in pages(docs):
        for target in re.findall(
            r"`make ([a-z_-]+)[ `]|^make ([a-z_-]+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            (name,) = filter(None, target)
            kind, _, rest = name.partition("-")
            if name in targets:
                continue
            assert f"{kind}-%" in targets, (path.name, name)
            folder, prefix = ("benchmarks", "") if kind == "bench" else ("drills", "drill_")
            assert (docs.parent / "tests" / folder / f"{prefix}{rest}.py").exists(), (path.name, name)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_of_a_page_outside_of_the_site_leads_somewhere(repository: Path, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    for target, place in re.findall(r"\]\(([^)#\s]+)(?:#([^)]*))?\)", text):
        if "://" not in target:
            assert (repository / target).exists(), target
            assert not place or place in places(repository / target), (target, place)
    for mentioned in re.findall(r"\b(docs/[\w/.-]+\.md)", text):
        assert (repository / mentioned).exists(), mentioned


def places(page: Path) -> set[str]:
    """What headings of a Markdown page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_five_lines_of_python_in_the_readme_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    model = catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=8000)
    checkpoint.save(tmp_path / "checkpoint", model)
    song_TC = np.random.default_rng(0).uniform(-0.5, 0.5, (18_000, 2))
    soundfile.write(tmp_path / "song.wav", song_TC, 12_000)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(code, made)
    assert {source: stem_CT.shape for source, stem_CT in made["stems"].items()} == dict.fromkeys(SOURCES, (2, 18_000))
    assert made["vocals_CT"].any()


def test_the_citation_is_of_this_version_and_fits_its_schema(repository: Path) -> None:
    said = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (said["version"], said["license"]) == (project["version"], project["license"])
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    checked = subprocess.run([*command, "CITATION.cff"], cwd=repository, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_pictures_of_the_readme_are_not_large(repository: Path) -> None:
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (repository / "README.md").read_text(encoding="utf-8"))
    assert len(shown) == 2
    assert all((repository / name).stat().st_size < 300_000 for name in shown)
