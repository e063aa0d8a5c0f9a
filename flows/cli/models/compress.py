"""`stemline compress`: stores a checkpoint in fewer bits, and says how many bytes that saved."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.disk_errors import disk_errors
from flows.cli.options import NO_OPTIONS, ModelRef, Options, Overrides
from flows.cli.session import run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, table


def compress(
    model: ModelRef,
    *overrides: Overrides,
    to: Annotated[str, Parameter(help="Folder for the compressed checkpoint.")],
    bits: Annotated[int, Parameter(help="Per weight of the large matrices, 2 to 15; 16 stores float16.")] = 8,
    options: Options = NO_OPTIONS,
) -> int:
    """Store a model in fewer bits; `separate` and `evaluate` read it like any other.

    Example: `stemline compress models:/stemline@champion --bits 8 --to small`
    """
    return run_verb(overrides, options, lambda config, screen: run(config, model, bits=bits, to=to, screen=screen))


def run(config: RunConfig, model: str, *, bits: int, to: str, screen: Screen) -> dict[str, Any]:
    """Writes the checkpoint folder `to`; the sizes of both weight files in bytes."""
    from models.errors import ModelError
    from models.weights import model_identity
    from pipelines import registry

    target = storage.local_path(to, "--to")
    source = registry.resolve(model, store=config.store.root)
    _check_target(target, source)
    try:
        compressed = _compress(source, target, bits)
    except ModelError as error:
        raise InputError(str(error)) from error
    before, after = (model_identity.describe(path).size_bytes for path in (source, compressed))
    screen.say(
        f"✓ {compressed}: {before / after:.1f} times smaller, {100 * after / before:.0f} % of {before / 2**20:.1f} MiB"
    )
    rows = [["before", str(source), f"{before / 2**20:.2f}"], ["after", str(compressed), f"{after / 2**20:.2f}"]]
    return {
        "checkpoint": str(compressed),
        "bits": bits,
        "bytes_before": before,
        "bytes_after": after,
        "ratio": before / after,
        "console_output": [table("Compressed", ["", "checkpoint", "MiB"], rows)],
    }


def _compress(source: Path, target: Path, bits: int) -> Path:
    from models.weights import checkpoint, model_identity
    from models.weights.bit_packing import uniform_packing
    from models.weights.loading import load_model

    network = load_model(source)
    packing = uniform_packing(network, bits)
    with disk_errors(target.parent, remedy="--to DIR"):
        target.parent.mkdir(parents=True, exist_ok=True)
    lineage = {"bits": bits, "rounded_from": model_identity.describe(source).digest}
    return checkpoint.save(target, network, packing=packing, extra=lineage)


def _check_target(target: Path, source: Path) -> None:
    """InputError unless the folder is free or holds a compressed checkpoint other than the one that is read."""
    from models.errors import ModelError
    from models.weights import checkpoint

    folder = source if source.is_dir() else source.parent
    if target.exists() and target.samefile(folder):
        raise InputError(f"--to {target} is the folder of the model; give another folder")
    try:
        checkpoint.require_replaceable(target)
        if target.is_dir() and any(target.iterdir()):
            extra = checkpoint.read_config(target).get("extra")
            if not isinstance(extra, dict) or "rounded_from" not in extra:
                raise InputError(
                    f"--to {target} holds a checkpoint that `stemline compress` did not write; give another folder"
                )
    except ModelError as error:
        raise InputError(f"--to {error}") from error
