"""From `--backend` and `--address` to what runs the stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.preflight import check_address
from orchestrator.local_cluster import prepare_local_cluster
from querying.errors import UserError

if TYPE_CHECKING:
    from orchestrator.backend import Backend
    from orchestrator.progress import Progress


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
        from orchestrator.local_backend import LocalBackend

        yield LocalBackend()
        return
    if not (address or os.environ.get("RAY_ADDRESS")):
        said = prepare_local_cluster()
        if said:
            progress.say(said)
    from orchestrator.ray_backend import connected

    progress.say("starting Ray ..." if not address else f"connecting to Ray at {address} ...")
    with connected(address) as backend:
        yield backend
