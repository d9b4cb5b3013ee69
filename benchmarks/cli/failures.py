"""What the command line says of a failure: one line with the culprit and the remedy, and an exit status.

docs/reference/exit_status.md lists where each status comes from.
"""

import errno
import os

from querying.base.errors import InfrastructureError, S4ALError, UserError

DAMAGED = 4
AGAIN = "the same command continues"
REMEDIES = {
    errno.ENOSPC: f"free some space there; {AGAIN}",
    errno.EDQUOT: f"your quota is used up: free some space there; {AGAIN}",
    errno.EIO: f"the disk or its network fails: see `dmesg`, use another disk; {AGAIN}",
    errno.ESTALE: f"the network disk has lost it: mount it again; {AGAIN}",
    errno.EROFS: f"mounted read-only: use another folder, or mount it for writing; {AGAIN}",
    errno.EACCES: f"not ours: change its owner or its rights (`ls -ld`); {AGAIN}",
    errno.EPERM: f"not allowed there: use another file system, or change its rights; {AGAIN}",
    errno.ENOENT: f"it has gone: was it moved or removed meanwhile?  Put it back; {AGAIN}",
    errno.ENOTDIR: "a file is where a folder is needed: move it away",
    errno.EISDIR: "a folder is where a file is needed: move it away",
    errno.ENAMETOOLONG: "give folders and files shorter names",
    errno.EMFILE: f"raise the number of open files (`ulimit -n 65536`); {AGAIN}",
    errno.ENFILE: f"the machine has too many open files; {AGAIN} when others have ended",
    errno.EAGAIN: f"no more processes or threads: raise `ulimit -u`, or use fewer train.threads; {AGAIN}",
    errno.ENOMEM: f"no memory left: use smaller batches, or end other programs; {AGAIN}",
    errno.EFBIG: f"larger than this file system or `ulimit -f` allows: use another disk; {AGAIN}",
    errno.ENODEV: "this file system can not map files into memory: copy the data to a local disk",
    errno.EXDEV: "two file systems in one folder: use a folder on one",
    errno.ENOLCK: "this file system has no locks: use a local disk",
    errno.EOPNOTSUPP: "this file system can not do that: use a local disk",
    errno.ENOSYS: "this file system can not do that: use a local disk",
}
"""What to do, by what the system says; every line names the file, too."""


def failure(error: Exception) -> tuple[str, int]:
    """The line without `s4al: `, and the exit status; an empty line where the help was shown instead."""
    if isinstance(error, S4ALError):
        return str(error), error.exit_status
    if isinstance(error, FloatingPointError):
        return str(error), DAMAGED
    if type(error).__module__.startswith(("click", "typer")):  # a wrong option or a missing argument
        shown = getattr(error, "format_message", lambda: str(error))()
        return f"{shown} (see --help)" if shown else "", UserError.exit_status
    if isinstance(error, BrokenPipeError):
        return f"standard output was closed before the end: write it to a file; {AGAIN}", 5
    if isinstance(error, OSError):
        return _system(error), InfrastructureError.exit_status
    if isinstance(error, MemoryError):
        return f"no memory left: use smaller batches, or end other programs; {AGAIN}", 5
    # A defect of ours, or a file that is not what was written.
    return (
        f"{type(error).__name__}: {error}: a defect of this program; what the run has finished is kept"
        " (`s4al verify` checks it), and the same command with --debug shows where"
    ), InfrastructureError.exit_status


def _system(error: OSError) -> str:
    """What the operating system refused: which file, why, and what to do."""
    try:
        os.getcwd()
    except OSError:
        return f"{error}: the folder in which this was started has been removed: `cd` to another; {AGAIN}"
    names = (name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes)))
    where = " and ".join(os.fsdecode(name) for name in names)
    why = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, f"{AGAIN}, or shows with --debug where it stopped")
    return f"{f'{where}: ' if where else ''}{why}: {remedy}"
