"""Jobs of a cluster; `make stack` and `make drill-operations` have the cluster."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web

from datasets.errors import InputError
from pipelines.runtime import follow_job_log, ray_jobs
from pipelines.runtime.ray_jobs import JobSpec

ENDED_S = 1.5  # after the first question, the job is over


def test_where_no_cluster_takes_jobs_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    spec = JobSpec(name="train-1", command=lambda job: f"true {job}", run="run")
    with pytest.raises(InputError, match=r"no Ray cluster takes jobs at http://127\.0\.0\.1:9"):
        ray_jobs.submit_or_attach("http://127.0.0.1:9", spec, on_log_line=lambda line: None)


class Cluster:
    """Answers as the head of a Ray cluster about one job that runs for a while, and counts what it sends."""

    def __init__(self, *, cuts: int, closes: bool = False) -> None:
        """The first `cuts` connections to the log end halfway; with `closes` in order, as if the log were over."""
        self.cuts, self.closes = cuts, closes
        self.text = "".join(f'@stemline ["advance", [{n}.0]]\n' for n in range(3000)) + "no newline at the end"
        self.began_s = 0.0
        self.tails, self.fetches, self.chars = 0, 0, 0

    def written(self) -> str:
        """A third of the log when it begins, all of it when the job is over."""
        share = min(1.0, (1 + 2 * (time.monotonic() - self.began_s) / ENDED_S) / 3)
        return self.text[: round(share * len(self.text))]

    def over(self) -> bool:
        return time.monotonic() - self.began_s > ENDED_S

    async def about(self, request: web.Request) -> web.Response:
        self.began_s = self.began_s or time.monotonic()
        over = self.over()
        told = {"type": "SUBMISSION", "entrypoint": "true", "submission_id": "job", "message": "done"}
        return web.json_response({**told, "status": "SUCCEEDED" if over else "RUNNING"})

    async def whole(self, request: web.Request) -> web.Response:
        self.fetches += 1
        self.chars += len(self.written())
        return web.json_response({"logs": self.written()})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        self.tails += 1
        cut, sent = self.tails <= self.cuts, 0
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while sent < len(self.text):
            text = self.written()[sent : sent + 20_000]
            if cut and sent > 10_000:
                if not self.closes:
                    assert request.transport is not None
                    request.transport.abort()
                break
            await socket.send_str(text)
            sent += len(text)
            self.chars += len(text)
            await asyncio.sleep(0.02)
        return socket


@contextmanager
def answering(cluster: Cluster) -> Iterator[str]:
    """The address at which it answers."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def serve() -> web.AppRunner:
        app = web.Application()
        version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "0", "session_name": "s"}

        async def answer(request: web.Request) -> web.Response:
            return web.json_response(version)

        app.router.add_get("/api/version", answer)
        app.router.add_get("/api/jobs/job", cluster.about)
        app.router.add_get("/api/jobs/job/logs", cluster.whole)
        app.router.add_get("/api/jobs/job/logs/tail", cluster.tail)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return runner

    def run() -> None:
        runner = loop.run_until_complete(serve())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(20)
    yield address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)


@pytest.mark.parametrize(
    ("cuts", "closes", "times"), [(0, False, 2.1), (2, False, 3.5), (1, True, 2.1), (99, False, 6.0)]
)
def test_each_line_of_a_job_is_heard_once_and_its_log_travels_a_few_times_at_most(
    monkeypatch: pytest.MonkeyPatch, cuts: int, closes: bool, times: float
) -> None:
    monkeypatch.setattr(ray_jobs, "LOOK_S", (0.05, 0.1))
    monkeypatch.setattr(follow_job_log, "_AGAIN_S", (0.02, 0.02))
    monkeypatch.setattr(follow_job_log, "_GROWN", 2.0)
    cluster, heard = Cluster(cuts=cuts, closes=closes), list[str]()
    with answering(cluster) as address:
        status = ray_jobs._follow(ray_jobs._client(address), "job", heard.append)
    assert status == ("SUCCEEDED", "done")
    assert heard == cluster.text.splitlines()
    assert cluster.chars <= times * len(cluster.text)
    assert cluster.fetches == 1 or cuts == 99
    assert not [thread for thread in threading.enumerate() if thread.name == "job-log" and thread.is_alive()]


def test_progress_is_heard_while_the_job_runs_and_after_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "LOOK_S", (0.05, 0.1))
    monkeypatch.setattr(follow_job_log, "_AGAIN_S", (0.02, 0.02))
    monkeypatch.setattr(follow_job_log, "_SILENT_S", 0.2)
    cluster, heard = Cluster(cuts=0), list[float]()

    async def dead(request: web.Request) -> web.WebSocketResponse:
        """A connection that dies without a word."""
        if cluster.tails:
            return await Cluster.tail(cluster, request)
        cluster.tails += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()  # until the other side gives it up
        return socket

    monkeypatch.setattr(cluster, "tail", dead)
    # However slow the machine, the job goes on until something was heard of it, or nobody listens.
    monkeypatch.setattr(cluster, "over", lambda: bool(heard) or time.monotonic() - cluster.began_s > 300)
    with answering(cluster) as address:
        ray_jobs._follow(
            ray_jobs._client(address), "job", lambda line: heard.append(time.monotonic() - cluster.began_s)
        )
    assert cluster.tails == 2
    assert heard[0] < 300
