"""The command `stemline`: one verb, one preset, and overrides. Read `full_run.py` for what the verbs set in motion.

Nothing heavy is imported before a verb needs it, so `--help` answers at once.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.text import Text

from datasets.store import strict_json
from flows.console.error_messages import explain

app = App(
    name="stemline",
    help="From a folder of multitrack songs to a separation model in production.",
    version=version("stemline"),
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

PRESET = "smoke"  # where none is named
Overrides = Annotated[str, Parameter(name="KEY=VALUE", help="Settings to change, such as train.steps=20.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every verb on the road understands."""

    preset: Annotated[str | None, Parameter(help="A name, or a stored .toml file that is to be run again.")] = None
    print_config: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print the resolved settings as TOML and stop.")
    ] = False
    json: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print the result as JSON; progress stays on stderr.")
    ] = False
    debug: Annotated[
        bool, Parameter(negative="", show_default=False, help="Show stack traces and the log of Prefect.")
    ] = False


NO_OPTIONS = Options()


@app.command(sort_key=1)
def demo(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """The whole road with synthetic songs, and a real one separated at the end; minutes on a laptop.

    Example: `stemline demo store.root=/tmp/demo`
    """
    from flows.cli.pipeline import demo as demonstration

    def job(config: Any, screen: Any) -> dict[str, Any]:
        return demonstration.run(config, verb="demo", screen=screen, debug=options.debug)

    return _carry_out(overrides, options, job, preset="demo")


@app.command(sort_key=2)
def run(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """The whole road with your songs: from a folder to a registered, gated model and a report.

    Example: `stemline run --preset smoke corpus.root=songs`
    """
    return _until("run", overrides, options)


@app.command(sort_key=2.5)
def corpus(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Show how every file of a folder would be read: which source, which split, what is refused. Decodes nothing.

    Example: `stemline corpus corpus.root=songs`
    """
    from flows.cli.planning import inspect_corpus

    return _carry_out(overrides, options, lambda config, screen: inspect_corpus.run(config, screen=screen))


@app.command(sort_key=2.6)
def plan(
    preset: Annotated[str, Parameter(help="A name, or a .toml file; --preset does as well.")] = "",
    /,
    *overrides: Overrides,
    gpu: Annotated[str, Parameter(help="h100, h200, a100-80, a100-40, l4, rtx4090 or v100-32.")] = "",
    memory_gib: Annotated[float, Parameter(help="Of one device, instead of its own.")] = 0.0,
    mfu: Annotated[float, Parameter(help="Share of the peak rate that you have measured, such as 0.3.")] = 0.0,
    price: Annotated[float, Parameter(help="Dollars per device and hour, instead of a list price.")] = 0.0,
    measure: Annotated[bool, Parameter(negative="", show_default=False, help="Take real steps here.")] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Say what a training will take, in steps, memory, time and money, and whether it fits.

    Example: `stemline plan htdemucs-one-gpu --gpu l4`
    """
    from flows.cli.planning import plan

    def job(config: Any, screen: Any) -> dict[str, Any]:
        hardware = plan.Hardware(gpu=gpu, memory_gib=memory_gib, mfu=mfu, price=price)
        return plan.run(config, hardware, measured=measure, screen=screen)

    if options.preset and preset:  # what stands in its place is the first override then
        overrides = (preset, *overrides)
    return _carry_out(overrides, options, job, preset=preset)


@app.command(sort_key=2.7)
def doctor(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Check versions, processor, memory, store, codecs, servers, GPUs and Ray, and say how to mend each fault.

    Example: `stemline doctor --preset htdemucs-musdb store.root=store`
    """
    from flows.cli.planning import doctor as checks

    return _carry_out(overrides, options, lambda config, screen: checks.run(config, screen=screen))


@app.command(sort_key=3)
def ingest(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Decode the songs of a folder into Parquet shards.

    Example: `stemline ingest corpus.root=songs store.root=store`
    """
    return _until("ingest", overrides, options)


@app.command(sort_key=4)
def curate(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Keep or drop each song, with a reason.

    Example: `stemline curate corpus.root=songs`
    """
    return _until("curate", overrides, options)


@app.command(sort_key=5)
def analyze(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Find tempo, beats, chroma and key of the songs kept.

    Example: `stemline analyze corpus.root=songs`
    """
    return _until("analyze", overrides, options)


@app.command(sort_key=6)
def automix(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Mix stems of different songs, aligned in beat and key, into more training material.

    Example: `stemline automix corpus.root=songs automix.mixes_per_track=2`
    """
    return _until("automix", overrides, options)


@app.command(sort_key=7)
def train(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Train a model on songs and automixes; goes on from the last checkpoint if it was stopped.

    Example: `stemline train --preset smoke corpus.root=songs train.steps=20`
    """
    return _until("train", overrides, options)


@app.command(sort_key=8)
def evaluate(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Separate and score every held-out song with the trained model and the champion.

    Example: `stemline evaluate corpus.root=songs`
    """
    return _until("evaluate", overrides, options)


@app.command(sort_key=9)
def promote(
    *overrides: Overrides,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Say what the gate would do; register nothing.")
    ] = False,
    version: Annotated[
        int | None, Parameter(show_default=False, help="Promote this version past the gate; with --force and --reason.")
    ] = None,
    force: Annotated[bool, Parameter(negative="", show_default=False, help="Pass the gate; with --version.")] = False,
    reason: Annotated[str, Parameter(show_default=False, help="Why, for `stemline history`.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Register the trained model, and make it the champion if the gate lets it pass.

    What was rolled back from, and what the gate refused, is promoted by name only: --version, --force and --reason.

    Example: `stemline promote --dry-run corpus.root=songs`
    """
    if version is None and not force and not reason:
        return _until("decide" if dry_run else "promote", overrides, options)

    def job(config: Any, screen: Any) -> dict[str, Any]:
        from flows.cli.models import champion_history

        return champion_history.by_name(config, version, force=force and not dry_run, reason=reason, screen=screen)

    return _carry_out(overrides, options, job)


@app.command(sort_key=8.5)
def compare(
    first: Annotated[str, Parameter(help="models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file.")],
    second: Annotated[str, Parameter(help="The same for the model that it is held against.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Score two models on the same held-out songs, and say what the first gains, song by song, and how sure that is.

    Example: `stemline compare models:/stemline/4 models:/stemline@champion corpus.root=songs`
    """

    def job(config: Any, screen: Any) -> dict[str, Any]:
        from flows.cli.models import compare

        return compare.run(config, first, second, screen=screen, debug=options.debug)

    return _carry_out(overrides, options, job)


@app.command(sort_key=8.6)
def listen(
    *overrides: Overrides,
    model: Annotated[str, Parameter(help="As `compare` takes it; the candidate where nothing is said.")] = "",
    against: Annotated[str, Parameter(help="The same; the champion where nothing is said.")] = "",
    out: Annotated[str, Parameter(help="Folder for the pages; `listening` in the store where nothing is said.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Make pages to hear two models against each other and the true stems, also blind; the worst songs first.

    Example: `stemline listen --model models:/stemline/4 corpus.root=songs listen.songs=4`
    """

    def job(config: Any, screen: Any) -> dict[str, Any]:
        from flows.cli.models import listen

        return listen.run(config, model, against, out=out, screen=screen, debug=options.debug)

    return _carry_out(overrides, options, job)


@app.command(sort_key=9.1)
def history(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List which version was the champion when, and why.

    Example: `stemline history store.root=store`
    """
    from flows.cli.models import champion_history

    return _carry_out(overrides, options, lambda config, screen: champion_history.listed(config))


@app.command(sort_key=9.15)
def lineage(
    what: Annotated[str, Parameter(help="models:/NAME/VERSION or models:/NAME@alias; or a song, by id or title.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show what a version was made from (songs, settings, code), or which versions heard a song.

    Example: `stemline lineage models:/stemline@champion store.root=store`
    """
    from flows.cli.models import lineage as origins

    return _carry_out(overrides, options, lambda config, screen: origins.run(config, what))


@app.command(sort_key=9.2)
def rollback(
    *overrides: Overrides,
    to: Annotated[int | None, Parameter(help="A version; by default the champion before the present one.")] = None,
    options: Options = NO_OPTIONS,
) -> int:
    """Make an earlier version the champion again; nothing is trained. Repeated, it goes back further.

    Example: `stemline rollback store.root=store`
    """
    from flows.cli.models import champion_history

    return _carry_out(
        overrides, options, lambda config, screen: champion_history.rolled_back(config, to=to, screen=screen)
    )


@app.command(sort_key=9.3)
def forget(
    song: Annotated[str, Parameter(help="Its id, its title or a part of one, as `stemline datasets find` takes it.")],
    /,
    *overrides: Overrides,
    erase: Annotated[
        bool, Parameter(negative="", show_default=False, help="Take its audio out of the stored shards as well.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Forget a recording in every later run, make a dataset without it, and name the versions that heard it.

    Example: `stemline forget "Falcon 69" corpus.root=songs store.root=store`
    """

    def job(config: Any, screen: Any) -> dict[str, Any]:
        from flows.cli.store import forget

        return forget.run(config, song, erase=erase, screen=screen, debug=options.debug)

    return _carry_out(overrides, options, job)


@app.command(sort_key=10)
def separate(
    *songs: Annotated[str, Parameter(name="SONG", help="Audio files; settings such as separate.shifts=1 may follow.")],
    model: Annotated[str, Parameter(help="models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file.")],
    out: Annotated[str, Parameter(help="Folder for the stems: one folder per song in it.")],
    two_stems: Annotated[str, Parameter(show_default=False, help="A source: write it and the sum of the others.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Separate songs into stems with a registered model, a checkpoint folder or a file.

    Example: `stemline separate song.mp3 --model models:/stemline@champion --out stems`
    """
    from flows import config as door
    from flows.cli.models import separate

    settings, files = door.parted(songs)
    if two_stems:
        settings.append(door.override("separate.two_stems", two_stems))
    return _carry_out(
        settings, options, lambda config, screen: separate.run(config, files, model=model, out=out, screen=screen)
    )


@app.command(sort_key=11)
def compress(
    model: Annotated[str, Parameter(help="models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file.")],
    *overrides: Overrides,
    to: Annotated[str, Parameter(help="Folder for the compressed checkpoint.")],
    bits: Annotated[int, Parameter(help="Per weight of the large matrices, 2 to 15; 16 stores float16.")] = 8,
    options: Options = NO_OPTIONS,
) -> int:
    """Store a model in fewer bits; `separate` and `evaluate` read it like any other.

    Example: `stemline compress models:/stemline@champion --bits 8 --to small`
    """
    from flows.cli.models import compress

    return _carry_out(
        overrides, options, lambda config, screen: compress.run(config, model, bits=bits, to=to, screen=screen)
    )


@app.command(sort_key=11.5)
def bag(
    *parts: Annotated[
        str,
        Parameter(name="SOURCE=MODEL", help="For each source its model; settings may follow."),
    ],
    to: Annotated[str, Parameter(help="The bag, NAME.yaml; its packages are put beside it.")],
    options: Options = NO_OPTIONS,
) -> int:
    """Put fine-tunings, one for each source, together as one model, which is read like any other.

    Example: `stemline bag drums=A bass=B other=C vocals=D --to ft/ft.yaml`
    """
    from flows import config as door
    from flows.cli.models import bag

    settings, members = door.parted(parts)
    return _carry_out(settings, options, lambda config, screen: bag.run(config, members, to=to, screen=screen))


@app.command(sort_key=11.2)
def export(
    model: Annotated[str, Parameter(help="models:/NAME@alias, models:/NAME/VERSION, a checkpoint folder or a file.")],
    *overrides: Overrides,
    to: Annotated[str, Parameter(help="FILE.onnx or FILE.pt2 (torch.export).")],
    options: Options = NO_OPTIONS,
) -> int:
    """Write a model as one graph that needs none of our source; a registered version keeps it and its digest.

    Example: `stemline export models:/stemline@champion --to champion.onnx`
    """
    from flows.cli.models import export

    return _carry_out(overrides, options, lambda config, screen: export.run(config, model, to=to, screen=screen))


@app.command(sort_key=12)
def ui(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Serve the report, MLflow and Prefect of a store on this machine until Ctrl-C.

    Example: `stemline ui store.root=store`
    """
    from flows.cli.operations import serve

    return _carry_out(overrides, options, lambda config, screen: serve.serve_store(config.store.root, screen=screen))


@app.command(sort_key=13)
def deploy(
    *overrides: Overrides,
    cron: Annotated[str, Parameter(help='When `retrain` looks whether to train, such as "0 3 * * *"; or off.')] = "",
    pool: Annotated[str, Parameter(help="Work pool; made with the process type where there is none.")] = "stemline",
    directory: Annotated[str, Parameter(help="Where workers find this project; by default where it is here.")] = "",
    options: Options = NO_OPTIONS,
) -> int:
    """Tell the Prefect server of PREFECT_API_URL the flows that its workers may run, with these settings.

    Example: `stemline deploy --preset smoke corpus.root=songs store.root=store --cron "0 3 * * *"`
    """
    from flows.cli.operations import deploy as deployment

    return _carry_out(
        overrides,
        options,
        lambda config, screen: deployment.run(
            config, preset=options.preset or PRESET, cron=cron, pool=pool, directory=directory, screen=screen
        ),
    )


@app.command(sort_key=13.1)
def why(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """Say in a sentence whether the model would be trained again now, and why.

    Example: `stemline why store.root=store retrain.new_hours=5`
    """
    from flows.cli.operations import deploy as deployment

    return _carry_out(overrides, options, lambda config, screen: deployment.why(config))


@app.command(sort_key=13.2)
def gc(
    *overrides: Overrides,
    keep: Annotated[int, Parameter(help="Newest versions of each dataset that stay; 0: all of them.")] = 0,
    delete: Annotated[
        bool, Parameter(negative="", show_default=False, help="Remove it, instead of listing it.")
    ] = False,
    options: Options = NO_OPTIONS,
) -> int:
    """List what nothing in a store refers to any more; with --delete, remove it.

    Example: `stemline gc store.root=store --keep 3`
    """
    from flows.cli.store import gc

    return _carry_out(
        overrides, options, lambda config, screen: gc.run(config, keep=keep, delete=delete, screen=screen)
    )


@app.command(sort_key=13.3)
def inventory(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List every dependency with its version and licence; as CycloneDX with --json.

    Example: `stemline inventory --json > sbom.json`
    """
    from flows.cli.operations import sbom as stock

    return _carry_out(overrides, options, lambda config, screen: stock.run(as_json=options.json))


shelf = App(name="datasets", sort_key=12, help="Which datasets a store holds, how two differ, and which hold a song.")
app.command(shelf)


@shelf.default
def datasets_list(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """List the datasets of a store: songs, hours, splits, size, and which settings changed.

    Example: `stemline datasets store.root=store`
    """
    return _of_a_store(overrides, options, lambda history, store: history.listed(store))


@shelf.command(name="diff")
def datasets_diff(
    first: Annotated[str, Parameter(help="The beginning of a dataset's id, as `stemline datasets` lists it.")],
    second: Annotated[str, Parameter(help="The same for the dataset that it is compared with.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show which songs the second dataset adds, drops or holds otherwise; ids as `stemline datasets` lists them.

    Example: `stemline datasets diff 3f2a9c 81bb04 store.root=store`
    """
    return _of_a_store(overrides, options, lambda history, store: history.differing(store, first, second))


@shelf.command(name="find")
def datasets_find(
    song: Annotated[str, Parameter(help="Its id, its title or a part of one.")],
    /,
    *overrides: Overrides,
    options: Options = NO_OPTIONS,
) -> int:
    """Show which datasets hold a song, by its id, its title or a part of one.

    Example: `stemline datasets find "Falcon 69" store.root=store`
    """
    return _of_a_store(overrides, options, lambda history, store: history.holding(store, song))


def _of_a_store(overrides: Sequence[str], options: Options, look: Callable[[Any, str], dict[str, Any]]) -> int:
    from flows.cli.store import dataset_versions

    return _carry_out(overrides, options, lambda config, screen: look(dataset_versions, config.store.tables))


def _until(verb: str, overrides: Sequence[str], options: Options) -> int:
    from flows.cli import session

    def job(config: Any, screen: Any) -> dict[str, Any]:
        return session.run(config, verb=verb, screen=screen, debug=options.debug)

    return _carry_out(overrides, options, job)


def _carry_out(
    overrides: Sequence[str],
    options: Options,
    job: Callable[[Any, Any], dict[str, Any]],
    *,
    preset: str = PRESET,
) -> int:
    """Every verb comes through here: preset and overrides become one configuration, which is printed or acted on.

    What came of the job is printed; what went wrong becomes one message and an exit code.
    """
    from flows import config as door
    from flows.console.progress_display import Screen

    errors = Console(stderr=True, highlight=False)
    try:
        config = door.load(options.preset or preset, overrides)
        if options.print_config:
            sys.stdout.write(door.to_toml(config))
            return 0
        with Screen(errors) as screen:
            result = job(config, screen)
        result["seconds"] = screen.seconds
    except KeyboardInterrupt:
        errors.print("Stopped. The same command goes on from here.")
        return 130
    except Exception as error:
        if options.debug:
            errors.print(Text("".join(traceback.format_exception(error)).rstrip()))
        failure = explain(error)
        errors.print(Text(failure.message), style="red", soft_wrap=True)
        return failure.exit_code
    return _print_result(result, as_json=options.json)


def _print_result(result: dict[str, Any], *, as_json: bool) -> int:
    shown, exit_code = result.pop("shown", ()), int(result.pop("exit_code", 0))
    if as_json:
        # A document of somebody else's form is printed as it is, without what we say of every verb.
        sys.stdout.write(strict_json.dumps(result.get("document", result), indent=2) + "\n")
        return exit_code
    console = Console(highlight=False)
    for part in shown:
        console.print(part)
    return exit_code


def main(tokens: Sequence[str] | None = None) -> int:
    """The entry point; its value is the exit code: 0 done, 1 our fault, 2 bad input, 130 Ctrl-C."""
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        Console(stderr=True, highlight=False).print(
            Text(f"{error}\nSee `stemline --help`."), style="red", soft_wrap=True
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
