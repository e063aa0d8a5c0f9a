"""What a walk along a container finds: its parts, and what is wrong with them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPart:
    """One part of a container, or what is wrong with it."""

    end: int = 0  # where it ends; 0 where none is promised
    name: str = ""
    begins: bool = False  # another file
    lost: str = ""  # what is promised and not there, in words
