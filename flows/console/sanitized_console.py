"""The one way of words to a terminal: what would steer it, as in a file's name, is written out and does nothing.

Errors of stderr are nobody's, since progress and messages are no result; those of stdout are the caller's.
"""

import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from flows.console.standard_streams import unfailing

# Control characters but for line ends and tabs, and those that turn the direction of text or end its lines.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with characters that steer a terminal as Python writes them, such as `\\x1b`."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


_LEAST_WIDTH = 80  # of a result: in a narrower window its lines wrap, and nothing is cut


class Terminal(Console):
    """A rich console that prints no control character but its own."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        if stderr:
            options = {"file": unfailing(sys.stderr), **options}
        super().__init__(highlight=False, **options)
        if not stderr and "width" not in options and self.width < _LEAST_WIDTH:
            self.width = _LEAST_WIDTH

    def on_broken_pipe(self) -> NoReturn:
        """Rich would exit with code 1, whatever was printed."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything printable; what is not rich's own control code is plain."""
        for segment in super().render(renderable, options):
            steers = segment.control is None and _STEERING.search(segment.text)
            yield Segment(plain(segment.text), segment.style) if steers else segment
