"""The token of a local Ray cluster, readable by its owner alone: Ray itself makes one that everybody may read."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def make_private_token() -> None:
    """Make ~/.ray/auth_token where there is none, and take other users' rights to one that is ours.

    Whoever has the token can run programs as its owner.  Nothing is done where the environment gives the token, nor
    where the home folder can not be written: then Ray says what it needs.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    staged = path.with_name(f".auth_token-{os.getpid()}")
    with suppress(PermissionError):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), open(staged, "x", opener=_private) as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # another process was first: never exchange what it uses
                os.link(staged, path)
            staged.unlink()
        if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
            path.chmod(0o600)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
