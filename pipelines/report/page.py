"""The frame of the report: escaping, tables, and the policy that shuts the net out.

The page carries a Content-Security-Policy that allows its own style, its own script and data inside it, by digest,
and nothing else: whatever a song is called, nothing runs and nothing is fetched. `page.css` is the look, `page.js`
keeps the players together.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

_ASSETS = Path(__file__).with_name("assets")
# Begins the policy of every page, and so tells our pages from others'.
POLICY = "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
SOURCE_COLOURS = ("drums", "bass", "other", "vocals")  # the classes that have a colour of their own


def text(value: object) -> str:
    """Any value as HTML text."""
    return html.escape(str(value), quote=True)


def source_class(source: str) -> str:
    """The style class that gives a source its colour."""
    return f"source-{source}" if source in SOURCE_COLOURS else "source-more"


def section(title: str, *parts: str, lead: str = "") -> str:
    """A titled part of the page; `lead` is a sentence under the title, already HTML."""
    intro = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{text(title)}</h2>{intro}{''.join(parts)}</section>"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = (), totals: bool = False
) -> str:
    """Cells are HTML already; the first heads its row, columns in `numeric` align right, `totals` ends in a sum."""

    def cell(tag: str, index: int, content: str) -> str:
        kind = ' class="number"' if index in numeric else ""
        scope = ' scope="row"' if tag == "th" else ""
        return f"<{tag}{kind}{scope}>{content}</{tag}>"

    head = "".join(
        f'<th scope="col"{" class=number" if index in numeric else ""}>{text(header)}</th>'
        for index, header in enumerate(headers)
    )
    body = "".join(
        "<tr>" + "".join(cell("th" if index == 0 else "td", index, item) for index, item in enumerate(row)) + "</tr>"
        for row in rows
    )
    kind = ' class="totals"' if totals else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def document(title: str, body: str, *, parts: Sequence[str] = ("page",), about: str = "") -> str:
    """The whole page as one file; `parts` names the styles and scripts it takes, `about` is what it was made from."""
    style, script = (
        "".join(_ASSETS.joinpath(f"{part}.{kind}").read_text(encoding="utf-8") for part in parts)
        for kind in ("css", "js")
    )
    source = f'<meta name="made-from" content="{text(about)}">' if about else ""
    policy = f"{POLICY}; style-src {_hash(style)}; script-src {_hash(script)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{source}<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main><script>{script}</script></body></html>\n"
    )


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
