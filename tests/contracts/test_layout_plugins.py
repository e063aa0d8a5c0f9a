"""Layouts of plug-ins: their songs are scanned as those of ours, and their code is part of a dataset's key."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.corpus.removed_songs import read_removed_songs
from datasets.corpus.scan import scan, survey
from datasets.errors import InputError
from flows import train_model
from flows.config import RunConfig
from pipelines.preparation import ingest
from pipelines.preparation.ingest import CorpusConfig, IngestConfig, dataset_version, layout_plugins
from tests.contracts import song_lab


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with song_lab.installed(tmp_path_factory.mktemp("song-lab")) as folder:
        yield folder


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusConfig:
    """Two songs whose files are those of a plug-in's layout, and one in a folder of its own."""
    _touch(tmp_path, "takes", "Dawn__Drums.wav", "Dawn__Bass.wav", "Dawn__mixture.wav", "Dusk__kick.wav", "loose.wav")
    _touch(tmp_path, "valid/Noon", "drums.wav", "bass.wav")
    (tmp_path / "c" / "takes" / "splits.json").write_text('{"Dawn": "test"}')
    return CorpusConfig(root=str(tmp_path / "c"), sources=("drums", "bass"), plugins=("takes",))


def _touch(tmp_path: Path, folder: str, *names: str) -> None:
    (tmp_path / "c" / folder).mkdir(parents=True)
    for name in names:
        (tmp_path / "c" / folder / name).write_bytes(name.encode())


def test_songs_of_a_plug_in_stand_beside_ours_and_their_folders_are_its_own(site: Path, corpus: CorpusConfig) -> None:
    (Path(corpus.root) / "songs.csv").write_text("instrum,path\ndrums,valid/Noon/drums.wav\n")  # none of ours here
    found = scan(corpus.root, sources=corpus.sources, rules=corpus.rules)
    assert {track.track_id: track.split for track in found.tracks} == {"test/Dawn": "test", "valid/Noon": "valid"}
    (dawn,) = (track for track in found.tracks if track.split == "test")
    assert {source: [Path(file.path).name for file in files] for source, files in dawn.stems.items()} == {
        "drums": ["Dawn__Drums.wav"], "bass": ["Dawn__Bass.wav"],
    }  # fmt: skip
    assert [Path(file.path).name for file in dawn.mixture] == ["Dawn__mixture.wav"]
    assert [(song.track_id, song.reason) for song in found.rejected] == [("Dusk", "missing_stem")]
    layouts = {song.name: song.layout for song in survey(corpus.root, sources=corpus.sources, rules=corpus.rules).songs}
    assert layouts == {"test/Dawn": "takes", "Dusk": "takes", "valid/Noon": "folders"}


def test_another_source_of_a_layout_is_another_dataset(site: Path, corpus: CorpusConfig, tmp_path: Path) -> None:
    def key() -> str:
        store = str(tmp_path / "store")
        listed = dataset_version._list(corpus, IngestConfig(), read_removed_songs(store), store, None)
        (version,) = listed.about["plugins"]
        assert version.startswith("song_lab.layouts:takes (song-lab 1.0, source ")
        assert train_model._plugin_tags(RunConfig(corpus=corpus)) == {"plugins": f"corpus layout {version}"}
        return listed.key

    layouts = site / "song_lab" / "layouts.py"
    text, before = layouts.read_text(), key()
    assert key() == before
    try:
        layouts.write_text(f"{text}# another\n")
        song_lab.forget(site)
        assert key() != before
    finally:
        layouts.write_text(text)
        song_lab.forget(site)


WRONG = {
    "None": r"returned NoneType: want \{song: \{path: kind\}\}",
    "{'/Dawn': {files[0]: 'drums'}}": "named a song '/Dawn': want text",
    "{'Dawn': [files[0]]}": r"returned \['takes/.*for 'Dawn': want \{path: kind\}",
    "{'Dawn': {'takes/gone.wav': 'drums'}}": "gave 'Dawn' the file 'takes/gone.wav': want audio files among",
    "{'Dawn': {'takes/splits.json': 'drums'}}": "gave 'Dawn' the file 'takes/splits.json': want audio files among",
    "{'A': {files[0]: 'drums'}, 'B': {files[0]: 'drums'}}": "to 'A' and 'B': a file belongs to one song",
    "{'Dawn': {files[0]: 'kazoo'}}": "'kazoo': want one of drums, bass, a kind of the taxonomy, or mixture",
    "{'Dawn': {files[0]: ['drums']}}": r"called 'takes/.*' \['drums'\]: want one of drums, bass",
    "{'Dawn': dict.fromkeys(files[:2], 'mixture')}": "gave 'Dawn' 2 mixtures: want one at most",
    "read('gone.json')": "raised Unavailable: .*gone.json cannot be read",
}


@pytest.mark.parametrize("result", WRONG)
def test_a_layout_that_returns_anything_else_is_named(result: str, corpus: CorpusConfig, tmp_path: Path) -> None:
    (tmp_path / "lab_layout.py").write_text(f"def find(files, read):\n    return {result}\n")
    with song_lab.on_path(tmp_path):
        rules = CorpusConfig(plugins=("lab_layout:find",)).rules
        with pytest.raises(InputError, match=f"corpus layout plug-in 'lab_layout:find'.*{WRONG[result]}"):
            scan(corpus.root, sources=corpus.sources, rules=rules)


def test_a_layout_that_is_not_there_or_has_the_name_of_ours_is_refused_early(
    corpus: CorpusConfig, tmp_path: Path
) -> None:
    (tmp_path / "lab_csv.py").write_text("def find(files, read): ...\n")
    song_lab.write_distribution(tmp_path, "lab-csv", "[stemline.corpus_layouts]\ncsv = lab_csv:find\n")
    with song_lab.on_path(tmp_path):
        with pytest.raises(InputError, match=r"has the name of a layout .*: set corpus\.plugins to lab_csv:find"):
            layout_plugins(["csv"])
        with pytest.raises(InputError, match=r"corpus\.plugins: no corpus layout 'folders'; .*csv"):
            ingest.check(CorpusConfig(root=corpus.root, plugins=("folders",)))
