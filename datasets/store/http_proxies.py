"""Proxies as the environment names them: never for servers on this machine, and for S3 too."""

import os
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bypass_proxies() -> None:
    """Add this machine to the hosts that NO_PROXY names, for this process and those that it starts.

    Companies set `http_proxy` and often forget NO_PROXY; the clients of Prefect, MLflow and Ray would ask the proxy for
    servers that listen on 127.0.0.1. Both spellings are set, since some clients read only one.
    """
    named = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for value in named for host in value.split(",") if host.strip()]
    if "*" in hosts:
        return
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def proxy_for(endpoint: str) -> str | None:
    """The address of the proxy between here and a web address, None where there is none; Arrow asks for none itself."""
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    proxies = getproxies_environment()
    if parts.hostname in LOOPBACK or proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")
