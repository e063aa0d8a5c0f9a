"""The one error a caller of `models` can mend; `datasets` has its own, since the two rooms do not know each other."""

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """A configuration, file or batch that no model here can use. The message says what was seen and what would do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name: the name it resembles, or else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
