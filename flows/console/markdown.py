"""Text of anyone's, such as a file's name, as Markdown that shows just that text."""

import re

from flows.console.sanitized_console import plain

# What CommonMark and GitHub's tables, links and strikethrough give a meaning to (spec 0.31, 2.4: a backslash takes
# it away from any of them), HTML's brackets and entities among them.
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#!|~&$^=@\"']")
_BARE_ADDRESS = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=\bwww)(?=\.)")
_LIST_OR_RULE = re.compile(r"^\s*(?:[-+:]|\d+(?=[.)](?:\s|$)))")


def literal(text: str) -> str:
    """One line of Markdown, also in a table, that renders as `text`: no markup, HTML, image or link comes of it."""
    line = plain(" ".join(text.split()))
    line = _BARE_ADDRESS.sub(r"\\", _MARKUP.sub(r"\\\g<0>", line))
    line = line.replace("\\<", "&lt;")  # not every renderer knows that escape: MLflow's shows its own dialect
    starts = _LIST_OR_RULE.match(line)
    if starts is None:
        return line
    at = starts.end() - (not line[starts.end() - 1].isdigit())
    return f"{line[:at]}\\{line[at:]}"
