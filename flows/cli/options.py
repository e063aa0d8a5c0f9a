"""Arguments that every verb of the command line shares."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

PRESET = "smoke"  # where none is named
Overrides = Annotated[str, Parameter(name="KEY=VALUE", help="Settings to change, such as train.steps=20.")]
DryRun = Annotated[
    bool,
    Parameter(negative="", show_default=False, help="Say which steps are finished and which would run; run none."),
]
ModelRef = Annotated[
    str, Parameter(help="models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a checkpoint file.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every verb understands."""

    preset: Annotated[str | None, Parameter(help="A name, or a stored .toml file or manifest to run again.")] = None
    print_config: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print the resolved settings as TOML and stop.")
    ] = False
    json: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print the result as JSON; progress stays on stderr.")
    ] = False
    log_file: Annotated[
        str, Parameter(show_default=False, help="Add what happens to this file too: a line each, with the time in UTC.")
    ] = ""
    debug: Annotated[bool, Parameter(negative="", show_default=False, help="Show stack traces and Prefect's log.")] = (
        False
    )


NO_OPTIONS = Options()
