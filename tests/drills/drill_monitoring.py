"""Debian's Prometheus with `infra/monitoring`, on services of a cluster while a training runs: `make drill-monitoring`.

Every metric that the board and the rules name is looked for, and every query of the board is asked, one by one, until
all have answered or the training is over. A retraining fails, and MLflow, S3 and PostgreSQL end: each alert's query
must answer then.
"""

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tests.benchmarks.table import Row, figure, show
from tests.drills import drill_road, stack
from tests.drills.service_processes import HOST, Cluster, free_port
from tests.drills.services_here import cluster
from tests.drills.termination import clean_up_when_terminated

MONITORING = Path(__file__).resolve().parents[2] / "infra" / "monitoring"
PROGRAMS = {"Prometheus": "prometheus", "blackbox exporter": "prometheus-blackbox-exporter"}
WITHOUT_A_GPU = {"ray_node_gpus_utilization"}  # Ray has no such metric where there is no card
WITHIN_S = 60.0
CONSOLE = Console(highlight=False, width=140)


class Prometheus:
    """A server on the cluster's services, with our configuration but for addresses and how often it asks."""

    def __init__(self, made: Cluster) -> None:
        self.made, self.port, blackbox = made, free_port(), free_port()
        folder = made.folder / "monitoring"
        folder.mkdir()
        (folder / "password").write_text(made.password, encoding="utf-8")
        (folder / "alerts.yaml").write_text((MONITORING / "alerts.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        for name, changed in {"prometheus.yaml": self._here(blackbox), "blackbox.yaml": _read("blackbox.yaml")}.items():
            text = yaml.safe_dump(changed).replace("/etc/prometheus/prefect-password", str(folder / "password"))
            (folder / name).write_text(text, encoding="utf-8")
        answers = _answers(f"http://{HOST}:{blackbox}/-/healthy")
        command: list[str | Path] = [PROGRAMS["blackbox exporter"], f"--config.file={folder / 'blackbox.yaml'}"]
        made.add("blackbox exporter", [*command, f"--web.listen-address={HOST}:{blackbox}"], answers)
        command = [PROGRAMS["Prometheus"], f"--config.file={folder / 'prometheus.yaml'}"]
        options = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={HOST}:{self.port}"]
        made.add("Prometheus", [*command, *options], _answers(f"http://{HOST}:{self.port}/-/ready"))

    def _here(self, blackbox: int) -> Any:
        """The configuration with the addresses of this machine in the place of compose's names."""
        told = _read("prometheus.yaml")
        told["global"]["scrape_interval"] = told["global"]["evaluation_interval"] = "2s"
        jobs = {one["job_name"]: one for one in told["scrape_configs"]}
        ray = [one for name, one in self.made.services.items() if name.startswith("Ray")]
        ports = [str(one.command[list(one.command).index("--metrics-export-port") + 1]) for one in ray]
        del jobs["ray"]["dns_sd_configs"]
        jobs["ray"]["static_configs"] = [{"targets": [f"{HOST}:{port}" for port in ports]}]
        known = self.made.environment
        prefect = known["PREFECT_API_URL"].removesuffix("/api")
        addresses = {
            "http://mlflow:5000": known["MLFLOW_TRACKING_URI"], "http://s3:9000": known["AWS_ENDPOINT_URL"],
            "postgres:5432": f"{HOST}:{known['PGPORT']}", "http://prefect:4200": prefect,
            "prefect:4200": prefect.removeprefix("http://"), "blackbox:9115": f"{HOST}:{blackbox}",
        }  # fmt: skip
        text = yaml.safe_dump(told)
        for name, address in addresses.items():
            text = text.replace(name, address)
        return yaml.safe_load(text)

    def ask(self, query: str) -> list[Any]:
        """The series with which it answers now."""
        address = f"http://{HOST}:{self.port}/api/v1/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])

    def unhealthy_rules(self) -> list[str]:
        """Those that it could not evaluate."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/api/v1/rules", timeout=30) as answer:
            rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
        assert len(rules) == len(alerts())
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]


def _read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))


def _answers(page: str) -> Any:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(page, timeout=5):
                return True
        except OSError:
            return False

    return answers


def alerts() -> dict[str, str]:
    """Query by name of the alert."""
    return {rule["alert"]: rule["expr"] for group in _read("alerts.yaml")["groups"] for rule in group["rules"]}


def board() -> dict[str, str]:
    """Query by title of the panel."""
    panels = json.loads((MONITORING / "grafana" / "stemline.json").read_text(encoding="utf-8"))["panels"]
    return {panel["title"]: target["expr"] for panel in panels for target in panel["targets"]}


def metrics() -> set[str]:
    """Every metric that a query names."""
    told = " ".join([*alerts().values(), *board().values()])
    return set(re.findall(r"\b(?:ray_\w+|process_\w+|probe_\w+|up)\b(?!\()", told))


def watch(prometheus: Prometheus, made: Cluster, run: str) -> tuple[set[str], set[str]]:
    """The metrics that were found and the panels that had an answer, until these are all or a run is completed."""
    panels = {title for title, query in board().items() if not _of_gpus(query)}
    found, answered = set[str](), set[str]()
    while True:
        seen = stack.watch(made, run)
        found |= {name for name in metrics() - found if prometheus.ask(name)}
        answered |= {title for title, query in board().items() if title not in answered and prometheus.ask(query)}
        assert seen["type"] not in ("FAILED", "CANCELLED"), "\n".join([str(seen), *stack.logs(made, run)[-40:]])
        if seen["type"] == "COMPLETED" or (metrics() - WITHOUT_A_GPU <= found and panels <= answered):
            return found, answered
        time.sleep(1)


def answers_within(prometheus: Prometheus, query: str, seconds: float = WITHIN_S) -> bool:
    deadline_s = time.monotonic() + seconds
    while not prometheus.ask(query):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(1)
    return True


def fail_a_retraining(made: Cluster) -> None:
    run = stack.start_run(made, "retrain/stemline", songs=str(made.folder / "nothing"))
    while (seen := stack.watch(made, run))["type"] not in ("COMPLETED", "FAILED", "CANCELLED"):
        time.sleep(1)
    assert seen["type"] == "FAILED", seen


def play(made: Cluster) -> list[Row]:
    drill_road.make_songs(made.folder / "music")
    stack.deploy(made)
    stack.start_worker(made)
    prometheus, asked = Prometheus(made), alerts()
    silent = {name for name in ("MLflowAway", "S3Away", "PostgresAway", "RetrainingFailed", "PrefectServerAway")}
    early = [name for name in silent if not _falls_silent(prometheus, asked[name])]
    rows = [_none("alerts whose query answers before anything is wrong", early)]
    fail_a_retraining(made)
    late = [] if answers_within(prometheus, asked["RetrainingFailed"]) else ["RetrainingFailed"]
    found, answered = watch(prometheus, made, stack.start_run(made, "train-model/stemline"))
    rows += [
        figure("metrics that board and rules name", len(metrics()), ""),
        _none("metrics that were not found", sorted(metrics() - found - WITHOUT_A_GPU)),
        _none("metrics that only a machine with a GPU has", sorted((metrics() - found) & WITHOUT_A_GPU), target=None),
        figure("panels of the board", len(board()), ""),
        _none("panels without an answer", [t for t, q in board().items() if t not in answered and not _of_gpus(q)]),
        _none("rules that Prometheus could not evaluate", prometheus.unhealthy_rules()),
    ]
    for service, name in {"MLflow server": "MLflowAway", "S3": "S3Away", "PostgreSQL": "PostgresAway"}.items():
        made.services[service].kill()
        late += [] if answers_within(prometheus, asked[name]) else [name]
    return [*rows, _none("alerts whose query did not answer when something was wrong", late)]


def _of_gpus(query: str) -> bool:
    return any(name in query for name in WITHOUT_A_GPU)


def _falls_silent(prometheus: Prometheus, query: str) -> bool:
    """Whether it has no answer once everything was asked for the first time."""
    deadline_s = time.monotonic() + WITHIN_S
    while prometheus.ask(query):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(1)
    return True


def _none(name: str, found: list[str], target: float | None = 0) -> Row:
    for one in found:
        CONSOLE.print(f"{name}: {one}", markup=False)
    return figure(name, len(found), "", target=target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    clean_up_when_terminated()
    with cluster(say=CONSOLE.print) as made:
        rows = play(made)
    return show("Prometheus on a cluster while it trains", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
