"""Notice that a service on which this process depends has died, or is frozen, and leave with one line.

Ray's library ends such a process itself, with status 1 and many lines, after up to a minute; for one that is frozen it
waits for ever, since the kernel keeps its connections open.
"""

import os
import socket
import sys
import threading
import time
from enum import Enum

from orchestrator.process.interrupt import requested
from querying.base.errors import InfrastructureError

PROBE_S = 0.2
ANSWER_S = 5.0
HOLD_S = 5.0
"""A connection is held for so long, which shows a death at once; then a new one is asked for an answer."""
WARN_S = 10.0
FROZEN_S = 60.0


class Answer(Enum):
    ALIVE = "alive"
    SILENT = "silent"
    """Something listens, for the kernel takes connections by itself, but it says nothing."""
    REFUSED = "refused"


class Watch:
    """Ends the process (status 5) when nothing has listened at `host:port` for `patience` seconds, or when what
    listens has said nothing for `frozen` seconds."""

    def __init__(self, name: str, host: str, port: int, patience: float, frozen: float = FROZEN_S) -> None:
        self.name, self.address, self.patience, self.frozen = name, (host, port), patience, frozen
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name=f"watch {name}").start()

    def stop(self) -> None:
        self.stopped.set()

    def _watch(self) -> None:
        heard = before = time.monotonic()
        silent, warned = 0.0, False
        while not self.stopped.is_set():
            answer = ask(self.address, hold=HOLD_S)
            now = time.monotonic()
            if answer is Answer.REFUSED:
                if now - heard > self.patience:
                    self._leave("has died")
                    break
            else:
                heard = now
            # An hour in which this process stood still itself is no silence.
            silent = silent + min(now - before, 2 * ANSWER_S) if answer is Answer.SILENT else 0.0
            before = now
            if silent > self.frozen:
                self._leave(f"is frozen, or its machine is: it has said nothing for {silent:.0f} s")
            if silent > WARN_S and not warned:
                self._say(f"waiting for {self.name}, which says nothing, for {self.frozen:.0f} s at most")
            warned = silent > WARN_S
            self.stopped.wait(PROBE_S)

    def _say(self, line: str) -> None:
        if not self.stopped.is_set():
            print(line, file=sys.stderr, flush=True)

    def _leave(self, why: str) -> None:
        if requested.is_set() or self.stopped.is_set():  # somebody has asked for an end, and that is under way
            return
        self._say(f"s4al: {self.name} {why}: the same command continues from the last saved state")
        os._exit(InfrastructureError.exit_status)


def ask(address: tuple[str, int], hold: float = 0.0) -> Answer:
    """Who listens there?  One that speaks gRPC, as Ray's services do, begins with its settings, unasked.

    Then hold the connection for so many seconds, or until the other side closes it: the kernel does that for a process
    that dies.
    """
    heard = False
    try:
        with socket.create_connection(address, timeout=2 * ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            while connection.recv(4096) and hold:
                heard = True
                connection.settimeout(hold)
    except ConnectionRefusedError:
        return Answer.REFUSED
    except ConnectionError:  # cut off: somebody was there, or the kernel for a process that has just died
        return Answer.ALIVE
    except OSError:  # nothing in time, or no way there
        return Answer.ALIVE if heard else Answer.SILENT
    return Answer.ALIVE


def uses_tls() -> bool:
    """Then the client begins, and a service that says nothing is not frozen."""
    return os.environ.get("RAY_USE_TLS", "0").lower() not in ("0", "false", "")
