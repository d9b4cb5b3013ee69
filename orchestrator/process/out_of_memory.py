"""Memory that runs out becomes one line that says what to lower."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from querying.base.errors import InfrastructureError, ran_out_of_memory
from querying.base.redaction import cause


@contextmanager
def memory_for(what: str, keys: Sequence[str]) -> Iterator[None]:
    """InfrastructureError where memory runs out; it names the keys of the recipe that ask for so much."""
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        shown = cause(f"{type(error).__name__}: {error}", 160)
        raise InfrastructureError(
            f"{what}: out of memory; the same command with a lower {' and '.join(keys)} and --allow-drift continues"
            f" ({shown})"
        ) from error
