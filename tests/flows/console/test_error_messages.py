"""Whose fault it was: bad input, a full disk, or ours."""

import errno
import socket
from collections.abc import Callable

import pytest

from datasets.errors import AudioError, InputError
from flows.console.error_messages import explain
from models.errors import ModelError


class Remote(Exception):
    """Stands for Ray's error, which keeps what happened in `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a long stack trace of a worker")
        self.cause = cause


class RemoteInput(Remote, InputError):
    """Ray's error that is also the error it carries."""


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "error",
    [
        InputError("give less"),
        AudioError("silent_source", "give less"),
        ModelError("give less"),
        Remote(InputError("give less")),
        RemoteInput(InputError("give less")),
        chained(RuntimeError("the job failed"), Remote(InputError("give less"))),
        ExceptionGroup("two steps failed", [InputError("give less"), Remote(ModelError("give less"))]),
        chained(
            RuntimeError("the job failed"), ExceptionGroup("steps", [chained(OSError("x"), InputError("give less"))])
        ),
    ],
)
def test_bad_input_is_found_wherever_it_is_wrapped(error: Exception) -> None:
    failure = explain(error)
    assert (failure.message, failure.exit_code) == ("give less", 2)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        Remote(OSError(errno.EDQUOT, "quota")),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        chained(RuntimeError("the step failed"), Remote(OSError(errno.ENOSPC, "full"))),
    ],
)
def test_a_full_disk_is_for_the_user_to_mend(error: Exception) -> None:
    failure = explain(error)
    assert failure.exit_code == 2
    assert "disk is full" in failure.message


def test_anything_else_is_our_fault_and_says_how_to_see_more() -> None:
    failure = explain(chained(RuntimeError("outer"), KeyError("inner")))
    assert failure.exit_code == 1
    assert "KeyError: 'inner'" in failure.message
    assert "--debug" in failure.message


def raised(job: Callable[[], object]) -> Exception:
    try:
        job()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def handling(first: Exception, second: Exception) -> Exception:
    """The second error as it is when it is raised while the first one is handled."""

    def job() -> None:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904

    return raised(job)


def misspelt(first: Exception) -> Exception:
    """What a mistake in a handler raises by itself."""

    def job() -> object:
        try:
            raise first
        except Exception:
            return dict[str, str]()["bug"]

    return raised(job)


@pytest.mark.parametrize(
    "error",
    [
        misspelt(InputError("give less")),
        misspelt(ModelError("give less")),
        misspelt(OSError(errno.ENOSPC, "No space left on device")),
        handling(InputError("give less"), ValueError("bug")),
        handling(InputError("give less"), OSError(errno.EPERM, "bug")),
        handling(InputError("give less"), Remote(KeyError("bug"))),
        chained(RuntimeError("the job failed"), misspelt(InputError("give less"))),
        Remote(misspelt(InputError("give less"))),
        chained(AssertionError("bug"), InputError("cannot be")),
        ExceptionGroup("two steps failed", [InputError("give less"), KeyError("bug")]),
        KeyError("bug: No space left on device"),
    ],
)
def test_a_fault_of_ours_is_one_whatever_was_being_handled(error: Exception) -> None:
    failure = explain(error)
    assert failure.exit_code == 1
    assert "bug" in failure.message


def test_from_none_hides_a_full_disk_too() -> None:
    error = handling(OSError(errno.ENOSPC, "No space left on device"), RuntimeError("another matter"))
    assert explain(error).exit_code == 2
    error.__suppress_context__ = True  # as `from None` does
    assert explain(error).exit_code == 1


def test_all_that_a_group_asks_of_the_user_is_said_once() -> None:
    twice = [InputError("give less"), InputError("give more"), Remote(InputError("give less"))]
    assert explain(ExceptionGroup("steps", twice)).message == "give less\ngive more"


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_real_task_of_ray_raises_is_told_apart() -> None:
    from pipelines.runtime import cluster

    def refuses() -> None:
        raise InputError("give less")

    def breaks() -> None:
        try:
            refuses()
        except InputError:
            dict[str, str]()["bug"]

    with cluster.connect(num_cpus=2) as ray:
        seen = [explain(raised(lambda job=job: ray.get(ray.remote(job).remote()))) for job in (refuses, breaks)]
    assert [one.exit_code for one in seen] == [2, 1]
    assert seen[0].message == "give less"
    assert "KeyError: 'bug'" in seen[1].message


def test_an_error_that_causes_itself_ends() -> None:
    error = RuntimeError("round")
    error.__cause__ = error
    assert explain(error).exit_code == 1
    group = ExceptionGroup("round", [RuntimeError("inner")])
    group.exceptions[0].__cause__ = group
    assert explain(group).exit_code == 1


def refused_by_prefect(code: int) -> Exception:
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    request = httpx.Request("GET", "http://ada:s3cret@127.0.0.1:4200/api/flows")
    error = httpx.HTTPStatusError("refused", request=request, response=httpx.Response(code, request=request))
    return PrefectHTTPStatusError.from_httpx_error(error)


def connection_refused() -> Exception:
    """What Prefect's client raises where nothing listens."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return raised(lambda: httpx.get(f"http://127.0.0.1:{port}/api", trust_env=False))


def lost_by_ray(name: str) -> Exception:
    import ray.exceptions

    kind = getattr(ray.exceptions, name)
    return Remote(kind() if name == "LocalRayletDiedError" else kind("the machine is gone"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: refused_by_prefect(401), "set PREFECT_API_AUTH_STRING=user:password"),
        (lambda: refused_by_prefect(503), "is in trouble (503)"),
        (connection_refused, "went away, or does not answer"),
        (lambda: chained(RuntimeError("the flow failed"), connection_refused()), "went away, or does not answer"),
        (lambda: RuntimeError("Failed to reach API at http://127.0.0.1:8123/api/"), "went away, or does not answer"),
        (
            lambda: RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server."),
            "The temporary server of Prefect did not start",
        ),
        (lambda: lost_by_ray("LocalRayletDiedError"), "The Ray cluster at http://ada:***@head:8265 was lost"),
        (lambda: lost_by_ray("RaySystemError"), "the machine is gone"),
        (lambda: lost_by_ray("NodeDiedError"), "was lost, or a machine of it"),
        (lambda: lost_by_ray("OutOfMemoryError"), "A worker needed more memory"),
    ],
)
def test_a_server_that_went_away_is_no_fault_of_the_program(
    make: Callable[[], Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://ada:s3cret@127.0.0.1:4200/api")
    monkeypatch.setenv("RAY_ADDRESS", "http://ada:s3cret@head:8265")
    failure = explain(make())
    assert failure.exit_code == 2
    assert words in failure.message
    assert "s3cret" not in failure.message


def test_what_prefect_refuses_because_we_asked_for_nonsense_is_ours() -> None:
    assert explain(refused_by_prefect(422)).exit_code == 1
    assert explain(lost_by_ray("WorkerCrashedError")).exit_code == 1, "it may have crashed in our code"


def test_no_message_shows_a_password() -> None:
    assert "s3cret" not in explain(KeyError("postgresql://ada:s3cret@db/mlflow")).message


def test_an_error_that_says_nothing_does_not_hide_what_happened() -> None:
    """As Ray Data raises the error of a worker."""
    died = type("ActorDiedError", (Exception,), {"__module__": "ray.exceptions"})
    what = died("The actor died, ray::MapWorker()\n  File x\nmodels.errors.ModelError: no module lab")
    message = explain(chained(what, type("SystemException", (Exception,), {})())).message
    assert message.startswith("stemline failed: ActorDiedError: models.errors.ModelError: no module lab\n")
