"""Which forms of its functions a process computes with (`train.kernels`): ours, or the plain ones that they equal."""

_plain = False


def use_plain_forms(plain: bool) -> None:
    """Of this process, from now on: as its number of threads, it decides the last bits of all that it computes."""
    global _plain
    _plain = plain


def plain_forms() -> bool:
    """Asked by each fast form, which then computes what its docstring calls the plain one."""
    return _plain
