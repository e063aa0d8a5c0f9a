"""Manual approval of a promotion: a flow that waits until somebody fills in its form, or until time is up.

The form is on Prefect's page of the waiting run (`stemline ui`, or the server of PREFECT_API_URL) and is an ordinary
call of its API, so a script may answer as well: `resume_flow_run(ID, run_input={"promote": True, "name": "Ada"})`.
"""

from prefect import flow
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from flows.config import RunConfig
from flows.console.markdown import literal
from flows.console.progress_display import current, duration
from pipelines.evaluation import gate
from pipelines.evaluation.gate import GateDecision
from pipelines.runtime.progress import stage

POLL_EVERY_S = 5


class ApprovalForm(RunInput):
    """The answer: yes or no, by whom, and why."""

    promote: bool
    name: str
    why: str = ""


def with_approval(config: RunConfig, decision: GateDecision) -> GateDecision:
    """The decision after manual approval; unchanged where the gate refused, or `gate.approval` is off."""
    if not (config.gate.approval and decision.promote):
        return decision
    patience_s = config.gate.approval_s
    with stage(current(), "approval"):
        try:
            answer = ask(decision.reason, [check.message for check in decision.checks], patience_s=patience_s)
        except FlowPauseTimeout:
            why = f"Nobody approved it within {duration(patience_s)}"
            approved = gate.after_approval(decision, name="", promote=False, why=why)
        else:
            name = answer.name.strip()
            why = answer.why.strip().rstrip(".") if name else "The form was sent without a name, so it does not count"
            approved = gate.after_approval(decision, name=name, promote=bool(name) and answer.promote, why=why)
        current().finish(approved.checks[-1].message)
    return approved


@flow(name="approval", validate_parameters=False)
def ask(reason: str, checks: list[str], *, patience_s: float) -> ApprovalForm:
    """The form as it was filled in. A flow of its own: one whose time is up has failed and cannot continue."""
    lines = "\n".join(f"- {literal(check)}" for check in checks)
    form = ApprovalForm.with_initial_data(description=f"Promote it? {literal(reason)}\n\n{lines}")
    current().note("waiting for manual approval")
    return pause_flow_run(wait_for_input=form, timeout=max(1, round(patience_s)), poll_interval=POLL_EVERY_S)
