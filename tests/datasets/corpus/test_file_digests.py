"""Files are digested once, wherever that is, and what is said of them does not depend on where it was."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.corpus import file_digests
from datasets.corpus.file_digests import FileDigest, FileDigests, digest_file
from datasets.corpus.scan import scan
from datasets.errors import Changed, Unavailable
from datasets.store import storage

SOURCES = ("drums", "bass", "other", "vocals")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three songs whose files are of 100 bytes and more, in batches of 500."""
    monkeypatch.setattr(file_digests, "BATCH_BYTES", 500)
    for song in ("One", "Two", "Three"):
        (tmp_path / "corpus" / song).mkdir(parents=True)
        for source in SOURCES:
            (tmp_path / "corpus" / song / f"{source}.wav").write_bytes(f"{song} {source} ".encode() * 20)
    return tmp_path / "corpus"


class Elsewhere:
    """Digests files as another machine would, the last batch first, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def __call__(self, batches: Sequence[Sequence[str]]) -> Iterator[list[FileDigest]]:
        self.asked += batches
        for batch in reversed(batches):
            yield [digest_file(path) for path in batch]


def test_a_corpus_is_the_same_wherever_its_files_are_digested_and_asked_for_once(corpus: Path, tmp_path: Path) -> None:
    here, elsewhere, read = scan(corpus), Elsewhere(), list[float]()
    cache = tmp_path / "cache.json"
    assert scan(corpus, digest=elsewhere, cache=cache, advance=read.append) == here
    files = sorted(str(path) for path in corpus.glob("*/*.wav"))
    assert sorted(path for batch in elsewhere.asked for path in batch) == files
    assert all(sum(os.stat(path).st_size for path in batch) >= 500 for batch in elsewhere.asked[:-1])
    assert len(elsewhere.asked) > 2
    assert sorted(read) == sorted(os.stat(path).st_size for path in files)
    again = Elsewhere()
    assert scan(corpus, digest=again, cache=cache) == here
    assert again.asked == []


def test_few_files_are_digested_here(corpus: Path, tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache.json", Elsewhere()
    whole = scan(corpus, cache=cache)
    bass = corpus / "One" / "bass.wav"
    bass.write_bytes(b"another line")
    changed = scan(corpus, cache=cache, digest=elsewhere)
    assert elsewhere.asked == []
    assert [track.fingerprint for track in changed.tracks] != [track.fingerprint for track in whole.tracks]


def test_what_was_digested_before_a_job_dies_is_not_digested_again(corpus: Path, tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache.json", Elsewhere()

    def dies(batches: Sequence[Sequence[str]]) -> Iterator[list[FileDigest]]:
        yield [digest_file(path) for path in batches[0]]
        assert set(json.loads(cache.read_text())["files"]) == set(batches[0])  # before the end, which a kill has not
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(corpus, cache=cache, digest=dies)
    known = set(json.loads(cache.read_text())["files"])
    scan(corpus, cache=cache, digest=elsewhere)
    asked = {path for batch in elsewhere.asked for path in batch}
    assert asked == {str(path) for path in corpus.glob("*/*.wav")} - known


@pytest.mark.parametrize("changes", [False, True])
def test_a_song_that_another_machine_cannot_read_is_left_to_the_next_run(corpus: Path, changes: bool) -> None:
    def blind(batches: Sequence[Sequence[str]]) -> Iterator[list[FileDigest]]:
        for done in Elsewhere()(batches):
            yield [
                replace(file, error=f"{file.path} is out of reach", changed=changes) if "Two" in file.path else file
                for file in done
            ]

    found = scan(corpus, digest=blind)
    assert [track.title for track in found.tracks] == ["One", "Three"]
    assert [(one.title, one.reason, one.detail) for one in found.rejected] == [
        ("Two", "unavailable", "Two/drums.wav is out of reach")
    ]
    prints = FileDigests()
    prints.read_ahead([str(path) for path in corpus.glob("*/*.wav")], blind)
    with pytest.raises(Changed if changes else Unavailable):
        prints.of(str(corpus / "Two" / "bass.wav"))


def test_no_object_of_a_listing_is_asked_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for each file would be minutes, where a corpus has thousands of songs."""
    asked: list[str] = []
    monkeypatch.setattr(storage, "stamp", asked.append)
    stamps = {f"s3://songs/One/{source}.wav": storage.Stamp(size=7, changed_ns=9) for source in SOURCES}
    prints = FileDigests(stamps=stamps)
    prints.read_ahead(stamps, Elsewhere())
    assert {prints.of(path) for path in stamps} == {"object:7:9"}
    assert asked == []


def test_a_digest_is_that_of_the_bytes_and_of_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    seen = digest_file(str(tmp_path / "a"))
    assert (seen.size, seen.content, seen.error) == (3, hashlib.sha256(b"abc").hexdigest(), "")
    assert digest_file(str(tmp_path / "a"), (3, seen.changed_ns, "as before")).content == "as before"
    assert digest_file(str(tmp_path / "a"), (4, seen.changed_ns, "as before")).content == seen.content
    os.mkfifo(tmp_path / "pipe")
    assert digest_file(str(tmp_path / "pipe")).content == "unreadable:not a file"
    assert "No such file" in digest_file(str(tmp_path / "none")).error
