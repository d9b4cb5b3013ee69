"""What makes a local Ray cluster private: it listens on the loopback interface, reports nothing, keeps its token."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from orchestrator.process.surroundings import home_folder, temporary_folder
from querying.base.errors import UserError

ENVIRONMENT = {
    # Ray takes 127.0.0.1 for the machine's address, and then listens there alone, only where it believes that there
    # can be no second node; `_node_ip_address` is replaced by the address that others see (`resolve_ip_for_localhost`).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # else it reports to its makers after a minute
}
SHARED_MEMORY = "/dev/shm"
"""Where Ray has its objects.  Ray itself would ask for 30 % of the machine's memory, and where that is not free there,
as in most containers, write them to its folder for temporary files."""
LEAST, SLOW, MOST, ROOM = 80_000_000, 500_000_000, 2_000_000_000, 0.9
"""Bytes of an object store: Ray's least is 75 MiB.  ROOM: share of what is free that is taken."""


def prepare_local_cluster() -> str:
    """To be called before Ray is imported, which reads the environment then.  A variable that is set stays, but for a
    folder that can not be used: what is to be said of that, or nothing.  UserError where none can be used."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if not os.path.isdir(SHARED_MEMORY):  # it would try for minutes
        raise UserError(
            f"{SHARED_MEMORY} is missing, Ray needs it: mount it (`docker run --shm-size=1g`) or use --backend local"
        )
    folder, said = temporary_folder()
    os.environ["RAY_TMPDIR"] = str(folder)
    make_private_token()
    if ROOM * _shared_bytes() < LEAST:
        free = _shared_bytes() / 1e6
        said += "; " * bool(said) + (
            f"{SHARED_MEMORY} has {free:.0f} MB free, fewer than the {LEAST / 1e6:.0f} that Ray needs: its objects"
            f" go to {folder}, which is slower (`docker run --shm-size=1g`, or --backend local)"
        )
    return said


def object_store() -> int:
    """Bytes of a local cluster's object store: so many that they fit into SHARED_MEMORY; SLOW where Ray's least does
    not, which goes to its folder for temporary files then.  What we put there is small: files hold the rest."""
    most = int(ROOM * _shared_bytes())
    return min(most, MOST) if most >= LEAST else SLOW


def _shared_bytes() -> int:
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bsize * found.f_bavail


def make_private_token() -> None:
    """Make ~/.ray/auth_token where there is none, and take other users' rights to one that is ours.

    Whoever has the token can run programs as its owner.  Nothing is done where the environment gives the token.  Where
    the home folder can not be written, the token is in the environment alone, for this cluster.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = home_folder()
    try:
        readable = home is not None and _token_in(home / ".ray" / "auth_token")
    except OSError:  # a full disk, a quota, no hard links
        readable = False
    if not readable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _token_in(path: Path) -> bool:
    """Make it, once, and private; can this process read it then?"""
    staged = path.with_name(f".auth_token-{os.getpid()}")
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with suppress(FileExistsError), open(staged, "x", opener=_private) as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # another process was first: never exchange what it uses
                os.link(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        path.chmod(0o600)
    return os.access(path, os.R_OK)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
