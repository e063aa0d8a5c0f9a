"""A person's word before a promotion: a flow that waits until somebody fills in its form, or until time is up.

The form is on Prefect's page of the waiting run (`stemline ui`, or the server of PREFECT_API_URL) and is an ordinary
call of its API, so a script may answer as well: `resume_flow_run(ID, run_input={"promote": True, "name": "Ada"})`.
"""

from prefect import flow
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from flows.config import RunConfig
from flows.console.progress_display import current, duration
from pipelines.evaluation import gate
from pipelines.evaluation.gate import GateDecision
from pipelines.runtime.progress import stage

LOOK_EVERY_S = 5


class Word(RunInput):
    """What is asked: yes or no, who says so, and why."""

    promote: bool
    name: str
    why: str = ""


def with_approval(config: RunConfig, decision: GateDecision) -> GateDecision:
    """The decision with the word of a person who was asked; as it is where there is nothing to ask."""
    if not (config.gate.approval and decision.promote):
        return decision
    patience_s = config.gate.approval_s
    with stage(current(), "approval"):
        try:
            word = ask(decision.reason, [check.message for check in decision.checks], patience_s=patience_s)
        except FlowPauseTimeout:
            why = f"Nobody approved it within {duration(patience_s)}"
            answered = gate.after_approval(decision, name="", promote=False, why=why)
        else:
            name = word.name.strip()
            why = word.why.strip().rstrip(".") if name else "Somebody answered without a name, which counts for nothing"
            answered = gate.after_approval(decision, name=name, promote=bool(name) and word.promote, why=why)
        current().finish(answered.checks[-1].message)
    return answered


@flow(name="approval", validate_parameters=False)
def ask(reason: str, checks: list[str], *, patience_s: float) -> Word:
    """The answer of the form. A flow of its own, since one whose time is up has failed, and can go nowhere else."""
    lines = "\n".join(f"- {said}" for said in checks)
    form = Word.with_initial_data(description=f"Promote it? {reason}\n\n{lines}")
    current().note("waiting for a person's word")
    return pause_flow_run(wait_for_input=form, timeout=max(1, round(patience_s)), poll_interval=LOOK_EVERY_S)
