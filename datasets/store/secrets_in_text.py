"""Passwords in addresses, which stay out of everything that people read: messages, logs, pages."""

import re

# The colon of the user's part, up to the last @ before the address ends: a password may hold what should be quoted.
# In s3://, file:// and models:/ an @ belongs to the path.
_USER = re.compile(r"(?P<scheme>\b(?!s3\b|file\b)[a-zA-Z][\w+.-]*://)(?P<user>[^\s/@:'\"]*):(?P<password>[^\s'\"]*)@")
_TOKEN = re.compile(r"(?P<scheme>\bhttps?://)(?P<token>[^\s/@:'\"]+)@")
_OPTION = re.compile(
    r"(?P<name>[?&;](?:[\w-]*(?:password|passwd|passphrase|pwd|token|secret|api_?key|signature|credential)|sig)=)"
    r"[^\s&;'\"]+",
    re.IGNORECASE,
)


def without_passwords(text: str) -> str:
    """The same text with `***` for each password, and each token, that stands in an address in it."""
    text = _USER.sub(r"\g<scheme>\g<user>:***@", text)
    text = _TOKEN.sub(r"\g<scheme>***@", text)
    return _OPTION.sub(r"\g<name>***", text)
