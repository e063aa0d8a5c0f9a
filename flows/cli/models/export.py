"""`stemline export`: writes a model as one graph without its source; a registered version keeps a copy."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import disk_errors
from datasets.store.ownership import outputs, require_ours
from flows.cli.options import NO_OPTIONS, ModelRef, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen

KINDS = {".onnx": "export_onnx", ".pt2": "export_program"}  # functions of models.inference.export


def export(
    model: ModelRef,
    *overrides: Overrides,
    to: Annotated[str, Parameter(help="FILE.onnx or FILE.pt2 (torch.export).")],
    options: Options = NO_OPTIONS,
) -> int:
    """Write a model as one graph that needs none of our source; a registered version keeps it and its digest.

    Example: `stemline export models:/stemline@champion --to champion.onnx`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, model, to=to, screen=screen))


def run(config: RunConfig, model: str, *, to: str, screen: Screen) -> dict[str, Any]:
    """Writes `to`, of one segment for any batch, and attaches it to the version that `model` names, if it names one.

    A graph that was exported before is replaced, any other file is not.
    """
    target = storage.local_path(to, "--to")
    if target.suffix not in KINDS:
        raise InputError(f"--to must be a file that ends in {' or '.join(KINDS)}, got {to}")

    from models.errors import ModelError
    from models.inference import export
    from models.weights import checkpoint
    from models.weights.loading import load_model
    from pipelines import registry
    from pipelines.evaluation import model_compatibility

    remedy = f"give another name, --to FILE{target.suffix}, or move that away"
    require_ours(target.parent, [target.name], remedy=remedy)
    screen.start("export", 0, "")
    described = model_compatibility.describe(model, store=config.store.root)
    source = registry.resolve(model, store=config.store.root)
    try:
        checkpoint.require_outside(target)
        network = load_model(source)
        with disk_errors(target.parent, remedy=f"--to FILE{target.suffix}"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with outputs(target.parent, [target.name], remedy=remedy):
            graph: Path = getattr(export, KINDS[target.suffix])(network, target)
    except ModelError as error:
        raise InputError(str(error)) from error
    copy = registry.attach(model, graph, store=config.store.root) if model.startswith("models:") else ""
    screen.finish(f"{graph}, {graph.stat().st_size / 2**20:.1f} MiB")
    lines = [f"file     {graph}", *([f"kept at  {copy}"] if copy else [])]
    return {
        "file": str(graph),
        "kept": copy,
        "digest": described.digest,
        "console_output": [Text(line, overflow="fold") for line in lines],
    }
