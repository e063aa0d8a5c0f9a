"""YAML of strangers, read with suspicion: nothing is called by it, and it can neither be large nor grow large."""

from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_BYTES = 64 * 1024  # published files have some thousand
MAX_BRACKETS = 1000


def read_yaml(path: Path, *, wanted: str) -> Any:
    """The content of a YAML file, tuples of Python's as lists; a ModelError says which file is not what is `wanted`."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    class Loader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*name), which no such file needs")
            return super().compose_node(parent, index)

    # A trainer writes them so; a list does as well, and no other name of Python's is taken.
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", yaml.SafeLoader.construct_sequence)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} is no {wanted}: it has {size} bytes, and {MAX_BYTES} are the most that is read")
        text = path.read_text(encoding="utf-8")
        if (brackets := text.count("[") + text.count("{")) > MAX_BRACKETS:  # YAML's reader takes the square of them
            raise ModelError(
                f"{path} is no {wanted}: it has {brackets} brackets, and {MAX_BRACKETS} are the most that is read"
            )
        return yaml.load(text, Loader)  # a safe loader, and stricter
    except ModelError:
        raise
    except Exception as error:  # broken or hostile YAML can make its reader fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path} is no {wanted} ({reason})") from error
