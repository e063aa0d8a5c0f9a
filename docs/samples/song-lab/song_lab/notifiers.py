"""A notifier."""

import os
from typing import Any


def append_line(notice: Any) -> None:
    """A line for each notice at the end of the file that SONG_LAB_NOTICES names."""
    with open(os.environ["SONG_LAB_NOTICES"], "a", encoding="utf-8") as file:
        file.write(f"{notice.event}\t{notice.subject}\n")
