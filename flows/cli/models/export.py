"""`stemline export`: writes a model as one graph without its source, or as packages of demucs.

A registered version keeps a copy of its graph.
"""

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

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

PARTS = 3  # of the work, as the live line counts them: reading, the graph or the packages, and where they are kept
KINDS = {".onnx": "export_onnx", ".pt2": "export_program"}  # functions of models.inference.export


def export(
    model: ModelRef,
    *overrides: Overrides,
    to: Annotated[str, Parameter(help="FILE.onnx or FILE.pt2 (torch.export); FOLDER/NAME.yaml for demucs.")],
    form: Annotated[
        Literal["graph", "demucs"],
        Parameter(name="--format", help="demucs: what `demucs --repo FOLDER -n NAME` of demucs 4.1.0 separates with."),
    ] = "graph",
    options: Options = NO_OPTIONS,
) -> int:
    """Write a model as one graph that needs none of our source, or for demucs; a registered version keeps its graph.

    Example: `stemline export models:/stemline@champion --to champion.onnx`
    """
    write = run_demucs if form == "demucs" else run
    return run_verb(overrides, options, lambda config, screen: write(config, model, to=to, screen=screen))


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
    screen.start("export", PARTS, "parts")
    screen.note("reads the weights")
    described = model_compatibility.describe(model, store=config.store.root)
    source = registry.resolve(model, store=config.store.root)
    try:
        checkpoint.require_outside(target)
        network = load_model(source)
        screen.advance()
        screen.note(f"traces {sum(weight.numel() for weight in network.parameters()) / 1e6:.1f} M parameters")
        with disk_errors(target.parent, remedy=f"--to FILE{target.suffix}"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with outputs(target.parent, [target.name], remedy=remedy):
            graph: Path = getattr(export, KINDS[target.suffix])(network, target)
    except ModelError as error:
        raise InputError(str(error)) from error
    screen.advance()
    screen.note("keeps it with the version")
    copy = registry.attach(model, graph, store=config.store.root) if model.startswith("models:") else ""
    screen.advance()
    screen.finish(f"{graph}, {graph.stat().st_size / 2**20:.1f} MiB")
    lines = [f"file     {graph}", *([f"kept at  {copy}"] if copy else [])]
    return {
        "file": str(graph),
        "kept": copy,
        "digest": described.digest,
        "console_output": [Text(line, overflow="fold") for line in lines],
    }


def run_demucs(config: RunConfig, model: str, *, to: str, screen: Screen) -> dict[str, Any]:
    """Writes a bag's YAML file, which is `to`, and beside it the package of each of the model's members.

    Packages that were exported under that name before are replaced, any other file is not.
    """
    target = storage.local_path(to, "--to")
    if target.suffix != ".yaml" or not re.fullmatch(r"\w+", target.stem):
        raise InputError(
            "--to must be a file that ends in .yaml with --format demucs, its name of letters, digits and underscores, "
            f"got {to}"
        )

    from models.errors import ModelError
    from models.networks.bag import Bag
    from models.weights import checkpoint
    from models.weights.demucs.demucs_packages import export_bag
    from models.weights.loading import load_model
    from pipelines import registry
    from pipelines.evaluation import model_compatibility

    screen.start("export", PARTS, "parts")
    screen.note("reads the weights")
    described = model_compatibility.describe(model, store=config.store.root)
    remedy = "give another name, --to FOLDER/NAME.yaml, or move that away"
    try:
        checkpoint.require_outside(target)
        network = load_model(registry.resolve(model, store=config.store.root))
        members, weights = (network.models, network.shares) if isinstance(network, Bag) else ([network], None)
        screen.advance()
        screen.note(f"writes {len(members)} package{'s' if len(members) > 1 else ''}")
        with disk_errors(target.parent, remedy="--to FOLDER/NAME.yaml"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
                export_bag(list(members), folder, name=target.stem, weights=weights)
                screen.advance()
                screen.note("puts them in their place")
                written = sorted(Path(folder).iterdir())
                package = re.compile(rf"{re.escape(target.stem)}_\d+-[0-9a-f]{{8}}\.th")  # not of NAME_2.yaml's
                before = [path.name for path in target.parent.iterdir() if package.fullmatch(path.name)]
                with outputs(target.parent, {*before, *(path.name for path in written)}, remedy=remedy):
                    for name in before:
                        (target.parent / name).unlink()
                    for path in written:
                        path.replace(target.parent / path.name)
    except ModelError as error:
        raise InputError(str(error)) from error
    screen.advance()
    screen.finish(f"{target}, {len(members)} package{'s' if len(members) > 1 else ''}")
    files = [str(target.parent / path.name) for path in written]
    command = f"demucs --repo {target.parent} -n {target.stem} SONG"
    lines = [*(f"file     {file}" for file in files), f"try      {command}"]
    return {
        "file": str(target),
        "files": files,
        "digest": described.digest,
        "console_output": [Text(line, overflow="fold") for line in lines],
    }
