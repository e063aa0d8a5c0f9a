"""`stemline doctor`: checks everything that a run needs, and says how to fix what is missing."""

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

    Example: `stemline doctor --preset htdemucs-musdb store.root=STORE`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, screen=screen))


def run(config: RunConfig, *, screen: Screen) -> dict[str, Any]:
    """The findings; the exit code is 2 if something is at fault."""
    needs = Needs(
        store=config.store.root,
        data=config.store.tables,
        num_workers=config.train.num_workers,
        use_gpu=config.train.use_gpu,
    )
    findings = []
    with stage(screen, "doctor", 0, "") as progress:
        for finding in preflight.check(needs):
            findings.append(finding)
            progress.note(finding.name)
        faults = sum(finding.state == "fault" for finding in findings)
        progress.finish(f"{len(findings)} checks, {faults or 'nothing'} at fault")
    return {
        "findings": [asdict(finding) for finding in findings],
        "console_output": console_output(findings),
        "exit_code": 2 if faults else 0,
    }


def console_output(findings: list[Finding]) -> list[Any]:
    """A line for each check, and under the table how to fix the faults."""
    checks = table("Checks", ["", "", ""], [])
    checks.show_header = False
    checks.columns[2].justify = "left"
    checks.columns[2].overflow = "fold"
    for column in checks.columns[:2]:
        column.justify, column.no_wrap = "left", True
    for finding in findings:
        style = {"fault": "red", "warning": "yellow"}.get(finding.state)
        checks.add_row(Text(MARKS[finding.state]), Text(finding.name), Text(finding.seen), style=style)
    advice = [f"{MARKS[item.state]} {item.name}: {item.mend}" for item in findings if item.mend]
    return [checks, *(Text(line, overflow="fold") for line in advice)]
