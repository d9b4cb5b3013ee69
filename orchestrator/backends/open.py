"""From `--backend` and `--address` to what runs the stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.backends.local_cluster import prepare_local_cluster
from querying.base.errors import UserError

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress
import socket

from orchestrator.process.service_watch import Answer, ask, uses_tls


def check_backend(name: str, address: str | None) -> None:
    """UserError where the two exclude each other, or no cluster answers."""
    if address and name == "local":
        raise UserError("--address and --backend local exclude each other")
    joined = address or os.environ.get("RAY_ADDRESS")
    if name == "ray" and joined and joined != "auto":
        check_address(joined, "--address" if address else "RAY_ADDRESS")


@contextmanager
def started(name: str, address: str | None, progress: Progress) -> Iterator[Backend]:
    """The local back end, the cluster at `address` (or of RAY_ADDRESS), or a local cluster."""
    if name == "local":
        from orchestrator.backends.local_backend import LocalBackend

        yield LocalBackend()
        return
    if not (address or os.environ.get("RAY_ADDRESS")):
        said = prepare_local_cluster()
        if said:
            progress.say(said)
    from orchestrator.backends.ray_backend import connected

    progress.say("starting Ray ..." if not address else f"connecting to Ray at {address} ...")
    with connected(address) as backend:
        yield backend


ANSWER_WITHIN_S = 3.0


def check_address(address: str, source: str = "--address") -> None:
    """UserError within seconds if nothing listens there; Ray itself would try for minutes.  `source` is the option or
    the variable that says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(f"{source} {address!r}: expected HOST:PORT, ray://HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_S).close()
    except (OSError, ValueError, OverflowError) as error:  # also of a host that is no name, and a port that is none
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{source} {address}: no Ray cluster answers there ({reason})") from None
    if not uses_tls() and ask((host, int(port))) is Answer.SILENT:
        raise UserError(f"{source} {address}: no Ray cluster answers there (something listens, frozen or not Ray)")
