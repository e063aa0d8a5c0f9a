"""The errors a user can mend; the command line prints them without a stack trace and exits with 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was seen and what would do."""


class AudioError(InputError):
    """A file that cannot be used as audio; `reason` is one of `datasets.schema.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (self.reason, str(self))
