"""`stemline doctor`: whether everything that a run needs is there, and how to mend what is not."""

from dataclasses import asdict
from typing import Any

from rich.text import Text

from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table
from pipelines.runtime import preflight
from pipelines.runtime.preflight import Finding, Needs
from pipelines.runtime.progress import stage

MARKS = {"ok": "✓", "warning": "!", "fault": "✗"}


def doctor(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Check versions, processor, memory, store, codecs, servers, GPUs and Ray, and say how to fix each fault.

    Example: `stemline doctor --preset htdemucs-musdb store.root=store`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, screen=screen))


def run(config: RunConfig, *, screen: Screen) -> dict[str, Any]:
    """What was found; the exit code is 2 when something is at fault."""
    needs = Needs(
        store=config.store.root,
        data=config.store.tables,
        num_workers=config.train.num_workers,
        use_gpu=config.train.use_gpu,
    )
    found = []
    with stage(screen, "doctor", 0, "") as heard:
        for finding in preflight.check(needs):
            found.append(finding)
            heard.note(finding.name)
        faults = sum(finding.state == "fault" for finding in found)
        heard.finish(f"{len(found)} checks, {faults} at fault" if faults else f"{len(found)} checks, nothing at fault")
    return {
        "findings": [asdict(finding) for finding in found],
        "shown": shown(found),
        "exit_code": 2 if faults else 0,
    }


def shown(found: list[Finding]) -> list[Any]:
    """A line for each check, and under the table what would mend the others."""
    made = table("Checks", ["", "", ""], [])
    made.show_header = False
    made.columns[2].justify = "left"
    made.columns[2].overflow = "fold"
    for column in made.columns[:2]:
        column.justify, column.no_wrap = "left", True
    for finding in found:
        style = {"fault": "red", "warning": "yellow"}.get(finding.state)
        made.add_row(Text(MARKS[finding.state]), Text(finding.name), Text(finding.seen), style=style)
    advice = [f"{MARKS[item.state]} {item.name}: {item.mend}" for item in found if item.mend]
    return [made, *(Text(line, overflow="fold") for line in advice)]
