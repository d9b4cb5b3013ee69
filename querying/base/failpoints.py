"""Named places at which a test may break the program: before and after every rename, write and transition.

`S4AL_FAILPOINT=NAME=ACTION` arms one: `kill` (SIGKILL), `term` (SIGTERM), `enospc` or `eio` (an OSError), `cut:BYTES`
or `short:BYTES`.  The last two have the kernel break the next file that grows beyond BYTES, inside its write: by a
signal that ends the process, or by an OSError.  NAME@N is its N-th passing.  `S4AL_FAILPOINT_TRACE=FILE` lists the
names that a process passes.  Without them a place costs two look-ups in the environment.
"""

import errno
import os
import resource
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Do what the environment asks for at this place; nothing otherwise."""
    trace, armed = os.environ.get("S4AL_FAILPOINT_TRACE"), os.environ.get("S4AL_FAILPOINT")
    if not (trace or armed):
        return
    _passed[name] += 1
    if trace:
        with open(trace, "a") as file:
            file.write(f"{name}\n")
    if armed:
        place, _, action = armed.rpartition("=")
        wanted, _, number = place.partition("@")
        if wanted == name and _passed[name] == int(number or 1):
            _act(name, action)


def _act(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action in ("enospc", "eio"):
        code = errno.ENOSPC if action == "enospc" else errno.EIO
        raise OSError(code, os.strerror(code), name)
    elif action.startswith(("cut:", "short:")):
        kind, _, size = action.partition(":")
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kind == "cut" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    else:
        raise ValueError(f"S4AL_FAILPOINT: unknown action {action!r}")
