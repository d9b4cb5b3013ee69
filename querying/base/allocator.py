"""How a process of a stage keeps the memory that its tensors free."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt(3)."""
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; nothing where the C library has no mallopt.

    By default it gives every block of more than 32 MB back to the kernel at once, and takes the next one page by page,
    which costs up to as much as the arithmetic that fills it.  The process never shrinks; its peak stays what it was.
    """
    _mallopt({MMAP_THRESHOLD: NEVER, TRIM_THRESHOLD: NEVER, TOP_PAD: 64 * 2**20})


def give_freed_memory_back() -> None:
    """glibc's behaviour in a process that has freed large blocks, for comparisons."""
    _mallopt({MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, TOP_PAD: 128 * 2**10})


def _mallopt(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
