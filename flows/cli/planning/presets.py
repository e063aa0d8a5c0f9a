"""`stemline presets`: the presets that ship, what each is for, and how it trains."""

from typing import Any

from rich.padding import Padding
from rich.text import Text

from flows import config as settings
from flows.cli.options import NO_OPTIONS, PRESET, Options, Overrides
from flows.cli.session import run_verb


def presets(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List the presets that ship: the network, how long it trains, and what each is for.

    Example: `stemline presets --json`
    """
    return run_verb(overrides, options, lambda config, screen: run(), preset=PRESET)


def run() -> dict[str, Any]:
    """Every preset with its network, steps, batch and words."""
    listed = [_described(name) for name in settings.presets()]
    output: list[Any] = []
    for described in listed:
        trained = f"{described['network']}, {described['steps']} steps of {described['batch_size']} excerpts"
        output += [
            Text.assemble((described["name"], "bold"), f"   {trained}"),
            Padding(Text(described["description"]), (0, 0, 1, 2)),
        ]
    return {"presets": listed, "console_output": [*output, Text("stemline config --preset NAME tells what one sets.")]}


def _described(name: str) -> dict[str, Any]:
    config = settings.load(name)
    return {
        "name": name,
        "network": config.model.preset,
        "steps": config.train.steps,
        "batch_size": config.train.batch_size,
        "description": settings.description(name),
    }
