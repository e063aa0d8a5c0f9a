"""`stemline card`: the card of a registered version, as Markdown or as a model card for Hugging Face."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from datasets.errors import InputError
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig


def card(
    model: Annotated[str, Parameter(help="models:/NAME@alias or models:/NAME/VERSION.")],
    /,
    *overrides: Overrides,
    format: Annotated[
        Literal["markdown", "hf"], Parameter(help="markdown, as in MLflow; or hf, a README.md for Hugging Face.")
    ] = "markdown",
    options: Options = NO_OPTIONS,
) -> int:
    """Print the card of a registered version: what it is, its songs and licences, scores, the gate's verdict, failures.

    Example: `stemline card models:/stemline@champion --format hf store.root=STORE > README.md`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, model, format=format))


def run(config: RunConfig, model: str, *, format: str) -> dict[str, Any]:
    """The facts of a version, and the card as text."""
    if not model.startswith("models:"):
        raise InputError(
            f"only registered versions have a card: write models:/NAME@alias or models:/NAME/VERSION, got {model!r}"
        )

    from flows.console import version_card

    facts = version_card.card(config, model)
    text = version_card.hugging_face(facts) if format == "hf" else version_card.markdown(facts)
    return {**asdict(facts), "text": text}
