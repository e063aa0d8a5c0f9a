"""The errors a user can fix; the command line prints them without a stack trace and exits with 2.

No message shows a password: not those of errors, and through `without_passwords` no other text that people read.
"""

import re

# The colon of the user's part, up to the last @ before the address ends: a password may hold what should be quoted.
# In s3://, file:// and models:/ an @ belongs to the path.
_USER = re.compile(r"(?P<scheme>\b(?!s3\b|file\b)[a-zA-Z][\w+.-]*://)(?P<user>[^\s/@:\['\"]*):(?P<password>\S*)@")
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


def without_user(address: str) -> str:
    """An address of the web without user, password and the slash at its end: what a link to it may show."""
    scheme, _, rest = address.rstrip("/").partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was seen, and what is allowed, but no password."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_passwords(message))


class Unavailable(InputError):
    """Something could not be read now: the machine, the network or a right is at fault, or a file is gone.

    It says nothing about what a file holds, so nobody remembers it: the next run tries again.
    """


class Changed(Unavailable):
    """A file was not the same after it was read as before, or as when it was listed."""


class AudioError(InputError):
    """A file whose bytes are no usable audio, for ever; `reason` is one of `datasets.schema.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (self.reason, str(self))
