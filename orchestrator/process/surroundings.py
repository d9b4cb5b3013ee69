"""What this process finds where it was started: a working folder, a home, a folder for temporary files, a user's name.

Containers and clusters often lack one of them.  What the program can do without, it does without; where it can not,
the line names the variable or the folder, and the remedy.
"""

import os
import pwd
import tempfile
from contextlib import suppress
from pathlib import Path

from querying.base.errors import UserError

SOCKET = 107 - len("/ray/session_2026-12-01_16-30-52_123456_4194304/sockets/plasma_store")
"""Bytes that the name of Ray's folder may have: Linux takes 107 for a socket's name."""
NOWHERE = "/dev/null"
"""As a home folder: nobody can make a file in it."""
TEMPORARY = ("RAY_TMPDIR", "TMPDIR")
"""Variables that say where temporary files go, the first one Ray's alone."""


def check_working_folder() -> None:
    """UserError where the folder in which the command was started is gone: no relative path means anything there."""
    try:
        os.stat(os.getcwd())
    except OSError:
        there = os.environ.get("PWD", "it")
        raise UserError(
            f"the folder in which this was started ({there}) has been removed or can not be reached: `cd` to another"
        ) from None


def name_the_nameless() -> None:
    """Give a user without an entry in passwd (`docker run --user`) a name and, where HOME is not set, no home: else
    libraries would make a folder called `~`."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not os.environ.get("HOME"):
            os.environ["HOME"] = NOWHERE
        for name in ("USER", "LOGNAME"):
            os.environ.setdefault(name, f"uid-{os.getuid()}")


def home_folder() -> Path | None:
    """The user's home; None where there is none, or nothing can be written there."""
    with suppress(OSError, RuntimeError):
        home = Path.home()
        if home.is_dir() and os.access(home, os.W_OK | os.X_OK):
            return home
    return None


def temporary_folder() -> tuple[Path, str]:
    """A folder for a local Ray cluster, and what must be said of it (or nothing).

    RAY_TMPDIR and TMPDIR where Ray can use them, else /tmp; UserError, naming the variable, where that is none, either.
    """
    said = ""
    for name in TEMPORARY:
        if not (value := os.environ.get(name)):
            continue
        why = _unfit(Path(value))
        if not why:
            return Path(value).absolute(), said
        said = said or f"{name}={value}: {why}"
    fallback = Path("/tmp")
    if why := _unfit(fallback):
        raise UserError(
            f"{said or f'{fallback}: {why}'}; set RAY_TMPDIR to a folder with a short name that can be written"
        )
    return fallback, said and f"{said}: Ray's files go to {fallback}"


def _unfit(folder: Path) -> str:
    """Why Ray can not have its files there; empty where it can."""
    if not folder.is_dir():
        return "is no folder"
    try:
        os.rmdir(tempfile.mkdtemp(dir=folder))
    except OSError as error:
        return f"can not be written ({error.strerror})"
    length = len(os.fsencode(folder.absolute()))
    return f"has {length} bytes, Ray's sockets leave room for {SOCKET}" if length > SOCKET else ""
