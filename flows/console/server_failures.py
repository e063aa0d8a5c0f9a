"""Servers that do not start, refuse, or go away: what Prefect and Ray raise then, as something that a user can act on.

The errors are known by their packages and names alone, since most commands import neither Prefect nor Ray.
"""

import os

_GO_ON = "Then run the same command again to continue"
_RAY_LOST = {
    "LocalRayletDiedError", "NodeDiedError", "RaySystemError", "RpcError", "OwnerDiedError", "ObjectLostError",
}  # fmt: skip


def message_of(error: BaseException) -> str:
    """What happened to which server, and what to do; empty where the error tells of no server."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] in ("httpx", "prefect")}
    if "HTTPStatusError" in kinds:
        return _refused(error)
    if "RequestError" in kinds or str(error).startswith("Failed to reach API at"):
        return f"{_prefect()} went away, or does not answer ({_first_line(error)}). Start it. {_GO_ON}."
    if "ephemeral Prefect API server" in str(error):
        return (
            f"The temporary server of Prefect did not start ({_first_line(error)}): this machine is too loaded, or its "
            "ports 8000 to 8999 are taken. Try again later, or name a server that runs with PREFECT_API_URL."
        )
    of_ray = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("ray.")}
    if "OutOfMemoryError" in of_ray:
        return (
            f"A worker needed more memory than its machine has ({_first_line(error)}). End other programs there, or "
            f"use fewer workers or smaller batches. {_GO_ON}."
        )
    if of_ray & _RAY_LOST:
        address = os.environ.get("RAY_ADDRESS", "")
        where = f"The Ray cluster at {address}" if address else "The Ray on this machine"
        return f"{where} was lost, or a machine of it ({_first_line(error)}). {_GO_ON}."
    return ""


def _refused(error: BaseException) -> str:
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if code in (401, 403):
        return f"{_prefect()} asks for another password: set PREFECT_API_AUTH_STRING=user:password to the server's."
    if code >= 500:
        return f"{_prefect()} is in trouble ({code}); its own log says why. {_GO_ON}."
    return ""


def _prefect() -> str:
    url = os.environ.get("PREFECT_API_URL", "")
    return f"Prefect's server at {url}" if url else "The temporary server of Prefect"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
