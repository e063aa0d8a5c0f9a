"""The frame of the pages: whatever a song is called is text on every page, and a template lacks no value."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import jinja2
import numpy as np
import pytest
from markupsafe import Markup

from datasets.schema import MixPlan, Part
from pipelines.report import html_page
from pipelines.report.ab_page import ABEntry, ABPair, index_page, song_page
from pipelines.report.audio_players import PAGE_RATE
from pipelines.report.curation.curation_page import render as render_curation
from pipelines.report.examples.augmentation_examples import AugmentationExample
from pipelines.report.examples.automix_examples import MixExample, PartExample
from pipelines.report.model_report import render as render_report
from pipelines.report.report_input import ReportConfig, ReportInput
from tests.pipelines.report.test_curation import make_curation
from tests.pipelines.report.test_model_report import Page, make_song, score, verdict

SONG = "<script>alert(1)</script>"
RATE = 8000
SOUND_CT = np.zeros((2, PAGE_RATE), np.float32)


def report(folder: Path) -> str:
    chroma = (1.0,) + (0.0,) * 11
    parts = [
        PartExample(
            part=Part(track_id=SONG, source=source, stretch=1.1, semitones=1, shift_samples=0, gain_db=1.0),
            title=SONG, before_CT=SOUND_CT, after_CT=SOUND_CT, beats_s=(0.5,),
            chroma_before=chroma, chroma_after=chroma,
        )
        for source in ("bass", SONG)
    ]  # fmt: skip
    plan = MixPlan(
        mix_id=SONG, seed=0, split="train", tempo_bpm=120.0, key=SONG, parts=tuple(part.part for part in parts),
        beat_error_ms=1.0, key_distance=0.0, reason="",
    )  # fmt: skip
    mix = MixExample(plan=plan, title=SONG, license=SONG, beats_s=(0.5,), parts=tuple(parts))
    data = ReportInput(
        name=SONG, version=SONG, reason=SONG, split=SONG, licenses={SONG: 1}, lineage={SONG: SONG}, config=SONG,
        song=make_song(folder, title=SONG), mixes=[mix],
        sounds=[AugmentationExample(name=SONG, in_this_run=SONG, samples_CT=SOUND_CT)],
        verdicts=[verdict("a", title=SONG), *(verdict(f"{n}", reason=SONG, title=SONG) for n in range(6))],
        scores=[replace(score(track_id, source, 1.0, sdr=1.0), title=SONG, solver="lu", protocol=SONG)
                for source in ("drums", SONG) for track_id in (SONG, "b")],
        sources=("drums", SONG),
        history=[{"step": step, "loss": 1.0, "per_source": [1.0, 1.0], "valid_nsdr": {SONG: 1.0}} for step in (1, 2)],
    )  # fmt: skip
    return render_report(ReportConfig(clip_s=1.0), data)


def curation_page(folder: Path) -> str:
    data = make_curation(folder)
    verdicts = [
        replace(one, title=SONG, split=SONG, detail=SONG if one.detail else "", reason=SONG if one.reason else "")
        for one in data.verdicts
    ]
    evidence = {name: [replace(one, words=SONG) for one in moments] for name, moments in data.evidence.items()}
    songs = {name: replace(song, title=SONG) for name, song in data.songs.items()}
    return render_curation(
        replace(data, verdicts=verdicts, evidence=evidence, songs=songs, model=SONG, by_hand=(SONG,))
    )


def pair() -> tuple[ABPair, ABEntry]:
    stems_SCT = np.zeros((2, 2, RATE), np.float32)
    entry = ABEntry(file=f"{SONG}.html", title=SONG, gain=1.0, scores={"drums": (2.0, 1.0), SONG: (2.0, 3.0)})
    versions = {"Reference": stems_SCT, SONG: stems_SCT, f"{SONG} 2": stems_SCT}
    return ABPair(
        title=SONG, license=SONG, sample_rate=RATE, start_s=0.0, sources=("drums", SONG), versions=versions
    ), entry


def ab_song(folder: Path) -> str:
    return song_page(*pair(), around=(SONG, SONG), about=SONG)


def ab_index(folder: Path) -> str:
    return index_page([pair()[1]], (SONG, SONG), protocol=SONG)


@pytest.mark.parametrize("make", [report, curation_page, ab_song, ab_index])
def test_a_song_called_as_a_script_is_text_on_every_page(make: Callable[[Path], str], tmp_path: Path) -> None:
    text = make(tmp_path)
    assert SONG not in text
    assert SONG.capitalize() not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    scripts = Page(text).all("script")
    assert [attributes for attributes in scripts if attributes.get("type") != "audio/flac"] == [{}]
    assert text.startswith("<!doctype html>\n<html")
    assert text.endswith("</html>\n")


def test_links_to_pages_of_songs_lead_to_the_files_whatever_their_names_have_in_them() -> None:
    file = 'Song #1 100%41 "live"?.html'
    (_, entry), (page, _) = pair(), pair()
    index = Page(index_page([replace(entry, file=file)], ("a", "b"), protocol="p"))
    song = Page(song_page(page, entry, around=(file, ""), about="p"))
    links = [link["href"] for text in (index, song) for link in text.all("a") if "Song" in link["href"]]
    assert [unquote(link) for link in links] == [file, file]
    assert not any(set("#?") & set(link) for link in links)


def test_a_value_is_escaped_unless_it_is_markup_and_a_missing_one_is_an_error() -> None:
    values = {"described": '"><b>', "kind": "<i>", "picture": "", "preload": "none", "seconds": "1", "sound": "",
              "style": "x", "waveform": Markup("<svg></svg>"), "whole": False}  # fmt: skip
    drawn = html_page.render("player.html.j2", **values)
    assert 'aria-label="Play &#34;&gt;&lt;b&gt;"' in drawn
    assert "<span>&lt;i&gt;</span>" in drawn
    assert "<svg></svg>" in drawn
    del values["kind"]
    with pytest.raises(jinja2.UndefinedError, match="kind"):
        html_page.render("player.html.j2", **values)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>\n  one\n  two\n</p>\n", "<p>one two</p>"),
        ("<p>one {{ 1 }}\n  two\n  {{ 2 }}</p>", "<p>one 1 two 2</p>"),
        ("<b>a</b>\n<b>b</b> <b>c</b>", "<b>a</b><b>b</b> <b>c</b>"),
        ("{% if true %}\n  a\n{% endif %}\n{{ 1 }}\n{{ 2 }}\n{# note #}\nb", "a12b"),
        ('<a x="1"\n   y="2">', '<a x="1" y="2">'),
        ("<pre>{{ 'kept\n  as it is' }}</pre>", "<pre>kept as it is</pre>"),
    ],
)
def test_indentation_of_a_template_leaves_no_space_in_the_page(source: str, text: str) -> None:
    assert html_page._templates().from_string(source).render() == text


def test_line_breaks_of_values_stay() -> None:
    assert "<pre>[a]\n  b = 1\n</pre>" in html_page.render(
        "report/lineage.html.j2", lineage={}, config="[a]\n  b = 1\n"
    )


def test_every_template_is_read_by_a_page() -> None:
    folder = Path(html_page.__file__).parent
    assets = folder / "assets"
    sources = "".join(path.read_text() for path in folder.rglob("*.py"))
    sources += "".join(path.read_text() for path in folder.rglob("*.j2"))
    names = {str(path.relative_to(assets)) for path in assets.rglob("*.j2")}
    assert names
    assert {name for name in names if f'"{name}"' not in sources} == set()
    assert set(html_page._templates().list_templates(extensions=["j2"])) == names
