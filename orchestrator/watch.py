"""Notice at once that a service on which this process depends has died, and leave with one line.

Ray's library ends such a process itself, with status 1 and many lines, after up to a minute.
"""

import os
import socket
import sys
import threading
import time

from orchestrator.interrupt import requested
from querying.errors import InfrastructureError

PROBE_S = 0.2


class Watch:
    """Ends the process (status 5) when nothing has listened at `host:port` for `patience` seconds."""

    def __init__(self, name: str, host: str, port: int, patience: float) -> None:
        self.name, self.address, self.patience = name, (host, port), patience
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name=f"watch {name}").start()

    def stop(self) -> None:
        self.stopped.set()

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self.stopped.is_set():
            if _until_closed(self.address):
                heard = time.monotonic()
            elif time.monotonic() - heard > self.patience:
                return self._dead()
            self.stopped.wait(PROBE_S)

    def _dead(self) -> None:
        if requested.is_set() or self.stopped.is_set():  # somebody has asked for an end, and that is under way
            return
        print(f"s4al: {self.name} has died: the same command continues from the last saved state",
              file=sys.stderr, flush=True)  # fmt: skip
        os._exit(InfrastructureError.exit_status)


def _until_closed(address: tuple[str, int]) -> bool:
    """Hold a connection, saying nothing, until the other side closes it; False where nothing listens.

    The kernel closes the connections of a process that dies, so nothing has to be asked again and again.
    """
    try:
        with socket.create_connection(address, timeout=10) as connection:
            connection.settimeout(None)
            while connection.recv(4096):
                pass
    except TimeoutError:  # it listens, and is too busy to answer
        return True
    except ConnectionRefusedError:
        return False
    except OSError:  # cut off
        return True
    return True
