"""No name of a file steers a terminal."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from flows.console.progress_display import Screen, table
from flows.console.sanitized_console import Terminal, plain

HOSTILE = "a\x1b[31m\x1b]0;title\x07b\x9b2Jc\rd\x08e\x7ff\u202eg\u2028h\udce9"
TOLD = r"a\x1b[31m\x1b]0;title\x07b\x9b2Jc\rd\x08e\x7ff\u202eg\u2028h\udce9"


def test_what_steers_is_written_out_and_other_text_stays() -> None:
    assert plain(HOSTILE) == TOLD
    kept = "Ünïcode 漢字 – × ♭ 🎵\n\ttab"
    assert plain(kept) == kept


@pytest.mark.parametrize("colours", [False, True])
def test_names_reach_a_terminal_as_plain_text_by_every_way(colours: bool) -> None:
    def printed(show: object) -> str:
        out = io.StringIO()
        terminal = Terminal(file=out, width=300, force_terminal=colours, color_system="standard" if colours else None)
        screen = Screen(terminal)
        if callable(show):
            show(screen)
        else:
            terminal.print(show, style="red")
        return out.getvalue()

    plain_table = Table.grid()
    plain_table.add_row(HOSTILE)
    for show in (
        HOSTILE, Text(HOSTILE), plain_table, table("Songs", ["song"], [[HOSTILE]]), table(HOSTILE, [HOSTILE], []),
        lambda screen: screen.say(HOSTILE), lambda screen: screen.detail(HOSTILE),
        lambda screen: screen.cached("ingest", HOSTILE),
        lambda screen: (screen.start("x", 1, "s"), screen.finish(HOSTILE)),
    ):  # fmt: skip
        said = printed(show)
        for steering in ("\x1b]", "\x07", "\x9b", "c\rd", "\x08", "\x7f", "\u202e", "\u2028", "a\x1b[31m"):
            assert steering not in said, (show, said)
        assert "\\x1b]" in said
        said.encode("utf-8")
