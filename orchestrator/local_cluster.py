"""What makes a local Ray cluster private: it listens on the loopback interface, reports nothing, keeps its token."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

ENVIRONMENT = {
    # Ray takes 127.0.0.1 for the machine's address, and then listens there alone, only where it believes that there
    # can be no second node; `_node_ip_address` is replaced by the address that others see (`resolve_ip_for_localhost`).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # else it reports to its makers after a minute
}


def prepare_local_cluster() -> None:
    """To be called before Ray is imported, which reads the environment then.  A variable that is set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if Path("/sys/class/net/lo").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    make_private_token()


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
