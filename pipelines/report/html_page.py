"""The frame of the pages: templates, escaping, and the policy that forbids all network access.

`render` fills a template of `assets/` and escapes every value that is not `Markup`, so a song's name is text whatever
it holds. A page carries a Content-Security-Policy that allows its own style, its own script and data inside it, by
digest, and nothing else. `assets/page.css` is the look, `assets/page.js` keeps the players together.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from pipelines.report.formatting import count_songs

_ASSETS = Path(__file__).with_name("assets")  # templates, styles, scripts
# Begins the policy of every page, and so tells our pages from others'.
POLICY = "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
SOURCE_COLOURS = ("drums", "bass", "other", "vocals")  # the classes that have a colour of their own
# Line breaks beside a tag or a statement, and between two expressions.
_LAYOUT = re.compile(r"(?<=[>}])(?<!\}\})\s*\n\s*|\s*\n\s*(?=<|\{[%#])|(?<=\}\})\s*\n\s*(?=\{\{)")
_BREAK = re.compile(r"\s*\n\s*")


class _Indentation(Extension):
    """Indentation of templates leaves no white space in the page; a line break between words is one space."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _BREAK.sub(" ", _LAYOUT.sub("", source.strip()))


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[_Indentation],
        auto_reload=False,
    )
    templates.globals.update(source_class=source_class, count_songs=count_songs)
    return templates


def render(template: str, **values: object) -> Markup:
    """A template with these values, each escaped unless it is `Markup`; a value that is missing is an error."""
    return Markup(_templates().get_template(template).render(values))


def source_class(source: str) -> str:
    """The style class that gives a source its colour."""
    return f"source-{source}" if source in SOURCE_COLOURS else "source-more"


def document(title: str, body: Markup, *, parts: Sequence[str] = ("page",), about: str = "") -> str:
    """The whole page as one file; `parts` names the styles and scripts it takes, `about` is what it was made from."""
    style, script = (
        "".join((_ASSETS / f"{part}.{kind}").read_text(encoding="utf-8") for part in parts) for kind in ("css", "js")
    )
    policy = f"{POLICY}; style-src {_hash(style)}; script-src {_hash(script)}"
    page = render(
        "document.html.j2",
        title=title, body=body, about=about, style=Markup(style), script=Markup(script), policy=Markup(policy),
    )  # fmt: skip
    return f"{page}\n"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
