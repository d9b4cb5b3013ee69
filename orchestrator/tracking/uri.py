"""Where results are tracked: the address of an MLflow server, or a SQLite file beside the run."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.folder.lock_file import take
from querying.base.errors import InfrastructureError, UserError
from querying.base.redaction import redacted

LOG = logging.getLogger(__name__)
VARIABLE = "MLFLOW_TRACKING_URI"
HANDED_ON = "S4AL_TRACKING"
"""In the environment of a process that works for this one: its address, or none.  Never in its arguments, which every
user of the machine can read."""
PATIENCE_S = 60.0
"""Seconds to wait for another process that prepares the same SQLite file."""


def default_uri(run: Path) -> str:
    """What the process that this one works for has handed on, a server from the environment, or a SQLite file beside
    the run."""
    return os.environ.get(HANDED_ON) or os.environ.get(VARIABLE) or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


def absolute(uri: str) -> str:
    """The same file for a process that works in another folder."""
    prefix, found, path = uri.partition("sqlite:///")
    return uri if prefix or not found or path.startswith("/") else f"sqlite:///{Path(path).resolve()}"


def chosen_uri(tracking: str | None, run: Path) -> str:
    """What --tracking says, or the default; UserError names the option or the variable whose value is no address.
    A password in the option is said to be readable by others."""
    uri = tracking or default_uri(run)
    if uri != "none":
        check_uri(uri, "--tracking" if tracking else VARIABLE)
    if tracking and redacted(tracking) != tracking:
        LOG.warning(
            "--tracking holds a password, and every user of this machine can read the arguments of this process: put"
            " the address into the variable %s instead", VARIABLE,
        )  # fmt: skip
    return uri


def handed_on(uri: str) -> dict[str, str]:
    """Variables for a process that works for this one, on another machine as well: where it tracks, and the settings
    of MLFLOW_*, passwords among them."""
    return {
        **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        HANDED_ON: absolute(uri),
    }


def how_to_see(uri: str) -> str:
    """The address of a server, or the command that shows what is in a database, to be pasted into a shell."""
    if uri.startswith("http"):
        return redacted(uri)
    where = shlex.quote(uri) if redacted(uri) == uri else f'"${VARIABLE}"'
    return f"mlflow ui --backend-store-uri {where}"


def page(uri: str) -> str:
    """What to open in a browser then: MLflow 3's own first page is for GenAI, whatever kind an experiment has."""
    where = redacted(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return "" if uri.startswith("databricks") else f"{where}/#/experiments?workflowType=machine_learning"


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
                        f"{path}: another process has held it for {PATIENCE_S:.0f} s: frozen, it seems: end it (`fuser`"
                        " on that file names it)"
                    ) from None
                time.sleep(0.1)
        yield
