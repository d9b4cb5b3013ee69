"""Where results are tracked: the address of an MLflow server, or a SQLite file beside the run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.lock_file import take
from querying.errors import InfrastructureError, UserError
from querying.shown import redacted

PATIENCE_S = 60.0
"""For another process that prepares the same SQLite file, which takes some seconds."""


def default_uri(run: Path) -> str:
    """A server from the environment, else a SQLite file beside the run."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def absolute(uri: str) -> str:
    """The same file for a process that works in another folder."""
    prefix, found, path = uri.partition("sqlite:///")
    return uri if prefix or not found or path.startswith("/") else f"sqlite:///{Path(path).resolve()}"


def chosen_uri(tracking: str | None, run: Path) -> str:
    """What --tracking says, or the default; UserError names the option or the variable whose value is no address."""
    uri = tracking or default_uri(run)
    if uri != "none":
        check_uri(uri, "--tracking" if tracking else "MLFLOW_TRACKING_URI")
    return uri


def check_uri(uri: str, source: str = "--tracking") -> None:
    if not uri.startswith(("sqlite:///", "http://", "https://", "postgresql", "mysql", "databricks")):
        raise UserError(f"{source} {redacted(uri)!r}: expected sqlite:///FILE, an http(s) server, or none")


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """On SQLite, one process at a time: two that create the tables or the experiment at once would meet."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///").split("?")[0] + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    with path.open("a") as file:
        while True:
            try:
                take(file)  # on a file system without locks, SQLite itself is all there is
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InfrastructureError(
                        f"{path}: another process has held it for {PATIENCE_S:.0f} s: frozen, it seems (fuser names it)"
                    ) from None
                time.sleep(0.1)
        yield
