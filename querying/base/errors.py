"""What can go wrong, by whose fault it is; the command line turns each into one line and an exit status."""

import re

# Python, NumPy and Arrow raise MemoryError; torch, the C++ library, the kernel and Ray say it in words.
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|can't allocate memory|Cannot allocate memory|low on memory|bad_alloc"
    r"|can't start new thread|could not create a memory",
    re.IGNORECASE,
)


class S4ALError(Exception):
    """Base class.  The message is one line that names the file, key or image."""

    exit_status = 1


class UserError(S4ALError, ValueError):
    """A user's mistake: bad input, unknown name, wrong path."""

    exit_status = 2


class WaitingForLabels(S4ALError):
    """The run has come to a point where people have to answer; the same command goes on when they have."""

    exit_status = 3


class DamagedError(S4ALError):
    """Data or a run folder differ from what was written."""

    exit_status = 4


class Interrupted(S4ALError):
    """Somebody asked the program to stop, and it did, with its state saved."""

    exit_status = 130


class InfrastructureError(S4ALError):
    """The machine, the network or the cluster failed; the same command can be tried again."""

    exit_status = 5


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Is it, or what it came from, a lack of memory?"""
    while error is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
