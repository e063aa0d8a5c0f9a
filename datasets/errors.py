"""The errors a user can fix; the command line prints them without a stack trace and exits with 2."""

from datasets.store.secrets_in_text import without_passwords


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
