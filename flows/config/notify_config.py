"""What people are told of, section `notify` of the configuration; where to is a secret, and in the environment."""

from dataclasses import dataclass
from typing import Annotated

from datasets.errors import InputError
from datasets.field_constraints import Range, check_ranges

# In the order of a model's life: a version became the champion by the gate or by name; the gate refused one; an earlier
# one is the champion again; a command or a scheduled run failed; scheduled runs could not start in time; the champion
# lost on the canary songs.
EVENTS = ("promotion", "refusal", "rollback", "failure", "missed", "drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """Who is told is in STEMLINE_NOTIFY, addresses of Apprise, and in the block."""

    on: tuple[str, ...] = EVENTS  # what people are told of: some of these
    block: str = ""  # a notification block of the Prefect server, such as slack-webhook/team; empty: none
    # Plug-ins that are told as well: names of entry points in stemline.notifiers, or package.module:object
    plugins: tuple[str, ...] = ()
    wait_s: Annotated[float, Range(gt=0, le=60, unit="s")] = 10.0  # longest wait for all services together

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="notify.")
        if unknown := [name for name in self.on if name not in EVENTS]:
            raise InputError(f"notify.on names {unknown[0]!r}; there are {', '.join(EVENTS)}")
        kind, _, name = self.block.partition("/")
        if self.block and (not kind or not name or "/" in name or "://" in self.block):
            raise InputError(
                "notify.block must be TYPE/NAME of a block on the Prefect server, such as slack-webhook/team; "
                "addresses of services are secrets: they belong into STEMLINE_NOTIFY"
            )
