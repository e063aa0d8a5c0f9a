"""Anyone's text as Markdown is that text: no markup, HTML, picture or link comes of it."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from flows.console.markdown import literal

HOSTILE = [
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "[a](javascript:alert(1))", "![x](http://a.b/c.png)",
    "a | b |", "|---|", "- x", "+ y", "-", "1. x", "12.wav", "3) x", "# h", "---", "=== x", "~~a~~ **b** __c__ `d`",
    "&lt;b&gt;", "ein_Name_mit_ (1).wav", "```", "C:\\Users\\x", "<a@b.co>", "http://evil.example/x www.evil.example",
    "[ref]: http://a.b", "$x$ ^y^ ==z==", ": x", "12", "Ça va? 100 %", "",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is_alone_in_a_list_and_in_a_table(text: str) -> None:
    markdown = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    alone = markdown.render(literal(text))
    table = markdown.render(f"| what | value |\n|---|---|\n| name | {literal(text)} |")
    item = markdown.render(f"- {literal(text)}")
    for page, ours in ((alone, {"p"}), (item, {"ul", "li"}), (table, {"table", "thead", "tbody", "tr", "th", "td"})):
        assert set(re.findall(r"</?([a-z0-9]+)", page)) <= ours
    assert html.unescape(re.sub("<[^>]*>", "", alone)).strip() == text
    assert html.unescape(table).count(f"<td>{text}</td>") == 1


def test_lines_and_what_steers_a_terminal_do_not_survive() -> None:
    assert literal("a\n\n# b") == "a \\# b"
    assert "\x1b" not in literal("\x1b[31mred")


def test_no_address_is_left_that_a_page_makes_a_link_of() -> None:
    text = literal("http://a.b https://c.d ftp://e.f www.g.h i@j.k")
    assert not re.search(r"(?i)[a-z]://|www\.|[a-z]@", text)
