"""What a verb of the command line sets in motion: the store is held, Prefect and Ray stand ready, then the flow."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from flows.config import RunConfig
from flows.console.progress_display import Screen
from flows.tasks.prefect_env import conducting
from flows.tasks.store_lock import held

CORPUS_STEPS = ("ingest", "curate", "analyze", "automix")


def run(config: RunConfig, *, verb: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """Every step up to the verb's own; finished ones return at once. JSON-sized but for `shown`, meant for people."""
    if verb not in CORPUS_STEPS:
        config.model.check()  # not after an hour of ingesting
    with prepared(config, verb=verb, screen=screen, debug=debug):
        from flows import build_corpus, full_run, train_model
        from flows.console.tables import corpus_tables, model_tables, run_tables

        if verb in CORPUS_STEPS:
            corpus = build_corpus.build_corpus(config, until=verb)
            return {**asdict(corpus), "shown": corpus_tables(corpus)}
        if verb in train_model.STEPS:
            corpus = build_corpus.build_corpus(config)
            model = train_model.train_model(config, corpus, until=verb)
            return {**asdict(model), "shown": model_tables(model)}
        made = full_run.full_run(config)
        return {**asdict(made), "shown": run_tables(made, store=config.store.root)}


@contextmanager
def prepared(config: RunConfig, *, verb: str, screen: Screen, debug: bool) -> Iterator[None]:
    """The store held, services that were named reachable, Prefect at home in the store, one Ray for all steps."""
    from pipelines import registry
    from pipelines.registry.server_check import check_address
    from pipelines.runtime.cluster import session

    with held(config.store.root, verb=verb, data=config.store.data) as store, _terminable():
        screen.say(f"stemline {verb} · store {config.store.root}")
        if verb in ("evaluate", "decide", "promote", "run", "demo", "compare", "listen"):
            check_address(registry.address(str(store)))  # not after an hour of training
        alone = nullcontext() if debug else screen.alone_on_stderr(store / "cache" / "stderr.log")
        with alone, conducting(store, debug=debug), session():
            screen.start("start", 0, "")
            yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that Ray and Prefect are taken down with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
