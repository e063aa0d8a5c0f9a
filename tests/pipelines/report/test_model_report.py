import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.errors import InputError
from datasets.schema import SOURCES, Score, StemFile, Verdict
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.lineage.contamination import Contamination
from pipelines.report.audio_players import PAGE_RATE, SongAudio, band_levels, clips_of, spectrogram, waveform
from pipelines.report.charts import Curve, SourceScores, curve_plot, nice_ticks, score_plot
from pipelines.report.model_report import render, run, songs_section
from pipelines.report.report_input import ReportConfig, ReportInput
from pipelines.report.score_section import scores_section

EVIL = "<script>alert('x')</script>\" onload=\"alert(1)"


def write_tone(path: Path, *, hz: float, seconds: float = 3.0, rate: int = 22050, level: float = 0.3) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * rate)) / rate
    wave = level * np.sin(2 * np.pi * hz * time_s)
    soundfile.write(path, np.stack([wave, wave], axis=1), rate, subtype="FLOAT")
    return str(path)


def make_song(folder: Path, *, title: str = EVIL) -> SongAudio:
    tones = {source: 220.0 * 2**index for index, source in enumerate(SOURCES)}
    return SongAudio(
        title=title,
        mixture=StemFile(path=write_tone(folder / "mixture.wav", hz=330)),
        estimates={source: write_tone(folder / "estimates" / f"{source}.wav", hz=hz) for source, hz in tones.items()},
        references={
            source: (StemFile(path=write_tone(folder / f"{source}.wav", hz=hz)),) for source, hz in tones.items()
        },
        license=f"CC0 {EVIL}",
    )


def verdict(track_id: str, *, split: str = "train", reason: str = "", title: str = EVIL) -> Verdict:
    return Verdict(
        track_id=track_id, title=title, split=split, keep=not reason, reason=reason, detail=EVIL if reason else "",
        duration_s=600.0, measures={},
    )  # fmt: skip


def score(track_id: str, source: str, nsdr: float, *, floor: float = 0.0, sdr: float | None = None) -> Score:
    return Score(
        track_id=track_id, title=track_id, source=source, protocol="nsdr", nsdr=nsdr, sdr=sdr,
        mixture_nsdr=floor, mixture_sdr=None if sdr is None else -1.0,
    )  # fmt: skip


def make_input(folder: Path) -> ReportInput:
    return ReportInput(
        name="stemline",
        version="3",
        promoted=False,
        reason=f"0.2 dB worse than the champion {EVIL}",
        verdicts=[verdict("a"), verdict("b", split="test"), verdict("c", reason="silent_source")],
        licenses={EVIL: 3},
        scores=[score(track, source, 5.0) for track in ("b", "d") for source in SOURCES],
        history=[
            {"step": 10, "loss": 0.4, "per_source": [0.1, 0.2, 0.3, 0.4]},
            {"step": 20, "loss": 0.2, "per_source": [0.1, 0.2, 0.3, 0.4], "valid_nsdr": {"raw": 2.0, EVIL: 3.0}},
        ],
        song=make_song(folder),
        lineage={"Code, commit": EVIL},
        config=f"[corpus]\nroot = '{EVIL}'\n",
    )


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(ReportConfig(), make_input(tmp_path_factory.mktemp("song")))


def test_names_are_text_and_never_markup(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.all("script")) == 1
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert") >= 8
    assert not [attributes for _, attributes in parsed.tags if any(name.startswith("on") for name in attributes)]


def test_nothing_points_outside_the_page(page: str) -> None:
    for _, attributes in Page(page).tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_this_style_and_this_script_only(page: str) -> None:
    policy = Page(page).all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not [attributes for _, attributes in Page(page).tags if "style" in attributes]


def test_every_source_has_a_player_for_its_reference_and_its_estimate(page: str) -> None:
    players = Page(page).all("audio")
    assert len(players) == 1 + 2 * len(SOURCES)
    assert all((player["src"] or "").startswith("data:audio/mpeg;base64,") for player in players)


def test_the_verdict_of_the_gate_is_told_with_its_reason(page: str) -> None:
    assert "Candidate, not promoted" in page
    assert "0.2 dB worse than the champion" in page


def test_drops_are_listed_with_their_reason_in_words(page: str) -> None:
    assert "a source sounds in too few seconds" in page
    assert "1 song was dropped" in page


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    made = make_input(tmp_path / "song")
    pages = [Path(run(ReportConfig(), made, store=str(tmp_path / store))).read_bytes() for store in "ab"]
    assert pages[0] == pages[1]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]


def test_a_run_that_stopped_early_still_has_a_page() -> None:
    page = render(ReportConfig(), ReportInput(name="stemline"))
    assert "stemline, not registered" in page
    assert "<section" not in page


def test_scores_are_means_over_songs_and_say_their_protocol() -> None:
    scores = [score("a", "drums", 4.0, floor=1.0, sdr=3.0), score("b", "drums", 6.0, floor=-1.0, sdr=5.0)]
    page = render(ReportConfig(), ReportInput(name="stemline", version="1", scores=scores))
    row = re.search(r"<tr><th[^>]*>[^/]*<span class=\"dot\"></span>Drums</span></th>(.*?)</tr>", page)
    assert row is not None
    assert re.findall(r">([^<]+)</td>", row[1]) == ["2 of 2", "0.00", "5.00", "+5.00", "\u22121.00", "4.00"]
    assert "mean over songs" in page
    assert "median over 1 s windows" in page
    assert "<h1>5.0 dB better than the mixture, 5.0 dB better than silence</h1>" in page


def test_a_stem_that_is_silent_counts_in_no_mean_and_its_leakage_has_a_column() -> None:
    silent = replace(score("b", "drums", 0.0), nsdr=None, mixture_nsdr=None, leakage_db=-31.5)
    scores = [score("a", "drums", 4.0, floor=1.0), silent, score("a", "bass", 2.0), score("b", "bass", 6.0)]
    page = render(ReportConfig(), ReportInput(name="stemline", version="1", scores=scores))
    rows = [re.findall(r">([^<]+)</td>", row) for row in re.findall("<tr>.*?</tr>", page)]
    assert ["1 of 2", "1.00", "4.00", "+3.00", "\u221231.50"] in rows
    assert ["2 of 2", "0.00", "4.00", "+4.00", "–"] in rows
    assert ["2 of 2", "0.50", "4.00", "+3.50", "\u221231.50"] in rows
    assert "<h1>3.5 dB better than the mixture, 4.0 dB better than silence</h1>" in page
    assert "silent, relative to the mixture there, in the worst song" in page


def test_sdr_says_of_how_many_songs_where_these_are_fewer_and_the_oracles_mean_is_over_sources_too() -> None:
    silent = replace(score("b", "bass", 0.0), nsdr=None, mixture_nsdr=None, leakage_db=-31.5)
    scores = [
        replace(score("a", "drums", 4.0, sdr=3.0), ceiling_nsdr=9.0),
        replace(score("b", "drums", 6.0), ceiling_nsdr=11.0),
        replace(score("a", "bass", 2.0, sdr=1.0), ceiling_nsdr=4.0),
        silent,
    ]
    page = render(ReportConfig(), ReportInput(name="stemline", scores=scores))
    assert "SDR songs" in page
    rows = [re.findall(r">([^<]+)</td>", row) for row in re.findall("<tr>.*?</tr>", page)]
    oracle = ["10.00", "4.00", "7.00"]
    drums, bass, mean = (next(row for row in rows if value in row) for value in oracle)
    assert drums[-4:-1] == ["1 of 2", "\u22121.00", "3.00"]
    assert bass[-4:-1] == ["1 of 2", "\u22121.00", "1.00"]
    assert mean[:4] == ["2 of 2", "0.00", "3.50", "+3.50"]
    whole = [score("a", "drums", 4.0, sdr=3.0), score("a", "bass", 4.0, sdr=3.0)]
    assert "SDR songs" not in render(ReportConfig(), ReportInput(name="stemline", scores=whole))


def test_further_scores_have_a_table_if_they_were_asked_for() -> None:
    asked = EvaluateConfig(extra_metrics=("si_sar", "bleedless")).protocol
    silent = replace(score("b", "bass", 0.0), nsdr=None, mixture_nsdr=None, leakage_db=-31.5)
    scores = [
        replace(row, protocol=asked, si_sdr=99.0, **values)
        for row, values in (
            (score("a", "drums", 4.0), {"si_sar": 7.0, "bleedless": 30.0}),
            (score("b", "drums", 4.0), {"si_sar": 8.0, "bleedless": 31.0}),
            (score("a", "bass", 4.0), {"si_sar": 5.0, "bleedless": 40.0}),
            (silent, {}),
        )
    ]
    page = render(ReportConfig(), ReportInput(name="stemline", scores=scores))
    rows = [re.findall(r">([^<]+)</td>", row) for row in re.findall("<tr>.*?</tr>", page)]
    assert ["2 of 2", "7.50", "30.50"] in rows
    assert ["1 of 2", "5.00", "40.00"] in rows
    assert re.findall("<th[^>]*>(SI-SAR|SI-SDR|Bleedless)</th>", page) == ["SI-SAR", "Bleedless"]
    assert "Further scores" in page
    assert "Further scores" not in render(
        ReportConfig(), ReportInput(name="stemline", scores=[score("a", "drums", 4.0)])
    )


def test_a_song_on_whose_scores_rounding_decides_is_named_and_left_out() -> None:
    plain = score("fine", "drums", 4.0)
    sound = replace(plain, isr=7.0, sir=8.0, sar=9.0, solver="levinson")
    broken = replace(score("thin", "drums", 4.0), isr=70.0, sir=80.0, sar=90.0, solver="lu")
    page = render(ReportConfig(), ReportInput(name="stemline", scores=[sound, broken]))
    assert ["7.00", "8.00", "9.00"] in [re.findall(r">([^<]+)</td>", row) for row in re.findall("<tr>.*?</tr>", page)]
    assert f"Left out: {broken.title}." in page
    assert "ISR" not in render(ReportConfig(), ReportInput(name="stemline", scores=[plain]))


def test_a_score_that_is_not_finite_is_a_dash_and_breaks_no_plot() -> None:
    made = ReportInput(name="stemline", scores=[score("a", "drums", float("inf")), score("a", "bass", float("nan"))])
    page = render(ReportConfig(), made)
    assert "nan" not in page.lower().replace("finan", "")
    assert "–" in page


@pytest.mark.parametrize(
    ("nsdr", "floor", "sentence"),
    [
        (0.5, -4.0, "4.5 dB better than the mixture, 0.5 dB better than silence"),
        (-1.0, -4.0, "3.0 dB better than the mixture, but 1.0 dB worse than silence"),
        (-2.0, -1.0, "1.0 dB worse than the mixture, 2.0 dB worse than silence"),
    ],
)
def test_a_model_that_only_turns_down_is_not_praised(nsdr: float, floor: float, sentence: str) -> None:
    page = render(ReportConfig(), ReportInput(name="stemline", scores=[score("a", "drums", nsdr, floor=floor)]))
    assert f"<h1>{sentence}</h1>" in page


@pytest.mark.parametrize(
    ("gain_db", "sentence"),
    [
        (0.3, "0.3 dB better than the champion, 4.5 dB better than the mixture, 0.5 dB better than silence"),
        (-0.2, "0.2 dB worse than the champion, but 4.5 dB better than the mixture, 0.5 dB better than silence"),
    ],
)
def test_the_headline_begins_with_the_gain_over_the_champion(gain_db: float, sentence: str) -> None:
    told = ReportInput(name="stemline", scores=[score("a", "drums", 0.5, floor=-4.0)], champion_gain_db=gain_db)
    assert f"<h1>{sentence}</h1>" in render(ReportConfig(), told)


def test_players_show_the_loudest_seconds_at_one_common_gain(tmp_path: Path) -> None:
    rate = 8000
    quiet, loud = np.full((6 * rate, 2), 0.01), np.full((2 * rate, 2), 0.5)
    soundfile.write(tmp_path / "mixture.wav", np.concatenate([quiet, loud, quiet]), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "vocals.wav", np.full((14 * rate, 2), 2.0), rate, subtype="FLOAT")
    song = SongAudio(
        title="x", mixture=StemFile(path=str(tmp_path / "mixture.wav")),
        estimates={"vocals": str(tmp_path / "vocals.wav")}, references={},
    )  # fmt: skip
    mixture, vocals = clips_of(song, seconds=2)
    assert mixture.samples_CT.shape == vocals.samples_CT.shape == (2, 2 * PAGE_RATE)
    middle = slice(PAGE_RATE // 2, 3 * PAGE_RATE // 2)
    np.testing.assert_allclose(vocals.samples_CT[:, middle], 1.0, atol=0.03)
    np.testing.assert_allclose(mixture.samples_CT[:, middle], 0.25, atol=0.01)


def test_a_tone_is_brightest_where_its_pitch_is() -> None:
    time_s = np.arange(PAGE_RATE * 2) / PAGE_RATE
    tone_CT = np.tile(np.sin(2 * np.pi * 1000 * time_s), (2, 1)).astype(np.float32)
    level_F = band_levels(tone_CT)[:, 100:-100].mean(axis=1)
    edges_hz = np.geomspace(40, 16_000, len(level_F) + 1)
    brightest = int(np.argmax(level_F))
    assert edges_hz[brightest] * 0.97 < 1000 < edges_hz[brightest + 1] * 1.03
    assert level_F[brightest] == pytest.approx(0, abs=1.5)


def test_silence_is_dark_and_flat() -> None:
    silent_CT = np.zeros((2, 1000), np.float32)
    assert spectrogram(silent_CT, loudest_db=-60).startswith(b"\x89PNG")
    assert set(re.findall(r" (\d+\.\d)", waveform(silent_CT, peak=1.0).split("/>")[0])) == {"50.0"}


def test_channels_that_cancel_each_other_are_drawn_as_the_first_one() -> None:
    tone_T = np.sin(np.arange(PAGE_RATE, dtype=np.float32))
    assert np.array_equal(band_levels(np.stack([tone_T, -tone_T])), band_levels(np.stack([tone_T, tone_T])))
    assert waveform(np.stack([tone_T, -tone_T]), peak=1.0) == waveform(tone_T[None], peak=1.0)


@pytest.mark.parametrize("values", [[0.0, 1.0], [-3.2, 11.7], [0.001, 0.0013], [5.0, 5.0], [1e5, 3e5]])
def test_ticks_are_few_even_and_enclose_the_values(values: list[float]) -> None:
    ticks = nice_ticks(values, at_most=6)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= min(values)
    assert max(values) <= ticks[-1]
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])


def test_plots_of_nothing_are_nothing() -> None:
    assert score_plot([], label="x") == ""
    assert curve_plot([Curve(name="a", points=((1, float("nan")),), style="x")], label="x") == ""
    lone = SourceScores(source="kazoo", floor=0.0, model=0.0, songs=(0.0,))
    assert "Kazoo" in score_plot([lone], label="x")


def test_tables_head_their_rows_and_align_numbers() -> None:
    page = str(songs_section(ReportInput(name="m", verdicts=[verdict("a"), verdict("b", reason="clipped")])))
    assert '<tr><th scope="row">train</th><td class="number">1</td><td class="number">10\u00a0min</td></tr>' in page
    assert '<th scope="col">Split</th><th scope="col" class=number>Songs</th>' in page
    assert '<table class="totals">' in page


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        run(ReportConfig(), ReportInput(name="stemline"), store=str(tmp_path / "file"))


def test_an_excerpt_too_long_for_a_page_is_refused() -> None:
    with pytest.raises(InputError, match=r"report\.clip_s must be in \[1, 30\], got 300"):
        ReportConfig(clip_s=300)


def test_never_used_in_training_is_said_only_where_it_is_known() -> None:
    scores = [score(name, "drums", 5.0) for name in "abcd"]

    def lead(contamination: Contamination | None, split: str = "test") -> str:
        found = re.search(r"On 4 songs of the \w+ split(.*?\.) Higher", scores_section(made(contamination, split)))
        assert found is not None
        return found[1]

    def made(contamination: Contamination | None, split: str) -> ReportInput:
        return ReportInput(name="m", scores=scores, split=split, contamination=contamination)

    assert lead(Contamination()) == ", none used in training."
    assert lead(Contamination(songs={"b": "", "elsewhere": ""})) == ", 1 of them used in training: b."
    assert lead(Contamination(by_fingerprint=False)).endswith("other masters were not checked for.")
    assert lead(Contamination(known=False, gaps=("it began from x.th",))).endswith(
        "used in training: it began from x.th."
    )
    assert "it is not known" in lead(None)
    assert lead(None, "train") == ", which was trained on."
    assert lead(Contamination(), "valid") == ", by which the weights were selected."
