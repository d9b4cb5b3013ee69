"""Memory that a process has used once, kept for its next batch."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Stop glibc from handing large blocks back to the system when they are freed; False where there is no glibc.

    A network's feature maps have tens of megabytes each.  By default every one of them is mapped anew, and the system
    clears it page by page.  The process stays as large as it was at its largest; no value changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
