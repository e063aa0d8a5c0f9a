"""The command `stemline`, once it is known that the packages it runs are ours."""

import sys

from stemline.name_clashes import name_clash


def main() -> int:
    """The entry point; returns the exit code, which `flows/__main__.py` explains."""
    if clash := name_clash():
        sys.stderr.write(f"{clash}\n")
        return 2
    from flows.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
