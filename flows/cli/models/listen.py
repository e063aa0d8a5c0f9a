"""`stemline listen`: A/B listening pages of two models and the true stems."""

from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from datasets.errors import InputError
from datasets.store import storage
from flows import config as settings
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen, decibels, table
from pipelines import registry
from pipelines.evaluation import gate
from pipelines.inference import listening_pages
from pipelines.inference.listening_pages import ComparedModel
from pipelines.registry.find_or_create import CANDIDATE, CHAMPION

MAX_SONGS = 10


def listen(
    *overrides: Overrides,
    model: Annotated[str, Parameter(help="As `compare` takes it; by default the candidate.")] = "",
    against: Annotated[str, Parameter(help="The same; by default the champion.")] = "",
    out: Annotated[str, Parameter(help="Folder for the pages; by default `listening` in the store.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Make A/B listening pages of two models and the true stems, also blind; the worst songs first.

    Example: `stemline listen --model models:/stemline/4 corpus.root=SONGS listen.songs=4`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, model, against, out=out, screen=screen, debug=options.debug),
    )


def run(config: RunConfig, first: str, second: str, *, out: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Scores of both on the held-out songs, reused where known, then a page for each chosen song."""
    first = first or f"models:/{config.registry.name}@{CANDIDATE}"
    second = second or f"models:/{config.registry.name}@{CHAMPION}"
    if first == second:
        raise InputError(f"there is nothing to hear between {first} and itself: give two models, --model and --against")
    folder = settings.absolute(out) if out else storage.join(config.store.root, "listening")
    listening_pages.check(folder)
    for ref in (first, second):
        registry.resolve(ref, store=config.store.root)  # not after an hour of ingesting
    with prepared(config, verb="listen", screen=screen, debug=debug):
        from flows.build_corpus import build_corpus
        from flows.train_model import score_both

        songs = build_corpus(config, until="curate").songs
        scores = score_both(config, songs, first, second)
        a, b = (
            ComparedModel(name=ref, checkpoint=str(registry.resolve(ref, store=config.store.root)), scores=summary)
            for ref, summary in zip((first, second), scores, strict=True)
        )
        pairs = gate.compare(*scores, config.gate)
        page = listening_pages.run(config.listen, config.evaluate, (a, b), pairs, songs, out=folder, progress=screen)
    worst = sorted(pairs.songs.items(), key=lambda item: (item[1], item[0]))[:MAX_SONGS]
    rows = [[track_id, decibels(gain, sign=True)] for track_id, gain in worst]
    gains = table("Gain of the first in dB nSDR, the least first", ["song", "gain"], rows)
    return {
        "page": page,
        "first": first,
        "second": second,
        "songs": dict(worst),
        "console_output": [gains, Text(_how_to_open(page), overflow="fold")],
    }


def _how_to_open(page: str) -> str:
    if storage.is_remote(page):
        return f"The pages are at {page.rpartition('/')[0]}: copy them to a disk to open them, or give --out DIR"
    return f"Open {page}"
