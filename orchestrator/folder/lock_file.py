"""An exclusive lock on an open file, also where the file system has none."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)
"""What `flock` gives on file systems without it: Lustre and NFS as they are often mounted, CIFS, some of FUSE."""


def take(file: TextIO) -> bool:
    """Take the lock, which ends with the file.  BlockingIOError where another process has it; False, with nothing
    taken, where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def held(path: Path) -> str:
    """Who holds the lock on this file, as it says itself; empty where nobody does.  Takes nothing for longer than it
    takes to look."""
    try:
        with path.open() as file:
            text = file.read().strip()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return text
            except OSError as error:
                return text if error.errno in NO_LOCKS and alive(text) else ""
    except FileNotFoundError:
        pass
    return ""


def holder() -> str:
    """This process, as it is written into the file that it locks."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def alive(text: str) -> bool:
    """May the process that `holder` once named be at work, as far as can be told from here?  Of another machine it may;
    of this one, where a process has that number and is not this one."""
    words = text.split()
    if len(words) != 4 or not words[1].isdecimal():
        return False
    if words[3] != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(words[1]) != os.getpid()
