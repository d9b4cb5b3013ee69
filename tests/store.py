"""A proxy before an S3 server (`benchmarks.performance.store`) that does what networks do."""

import os
import socket
import threading
import time
from contextlib import contextmanager

from benchmarks.performance import store
from benchmarks.performance.store import BUCKET, environment, make_bucket, moto_server, send_answer, sent_with

__all__ = ["BUCKET", "Proxy", "environment", "make_bucket", "moto_server", "process_environment"]


class Proxy(store.Proxy):
    """Passes requests on.  `fault(method, path, number)` says what becomes of the number-th request (from 1 on, since
    `reset`): None passes it on; 500, 503, 403 answer it; `drop` closes the connection, `lose` does when it was passed
    on; `cut` passes half of the answer on; `flip` changes a bit of it, `flip-up` one of what is sent; a float waits so
    many seconds first.
    """

    def __init__(self, port, host="127.0.0.1"):
        self.lock = threading.Lock()
        self.reset()
        super().__init__(port, host)

    def reset(self, fault=lambda method, path, number: None):
        with self.lock:
            self.seen, self.fault = [], fault

    @contextmanager
    def away(self):
        """Nobody listens, and what was connected is not answered any more."""
        self.reset(lambda method, path, number: "drop")
        self.close()
        yield
        self.reset()
        self.listen(self.server.server_address[1])

    def pass_on(self, request):
        sent = sent_with(request)
        with self.lock:
            self.seen.append((request.command, request.path))
            what = self.fault(request.command, request.path, len(self.seen))
        if what == "drop":
            hang_up(request)
            return
        if isinstance(what, float):
            time.sleep(what)
        if what in (500, 503, 403):
            send_answer(request, what, {}, b"")
            return
        status, headers, body = self.asked(request, flipped(sent) if what == "flip-up" else sent)
        if what == "lose":
            hang_up(request)
            return
        send_answer(request, status, headers, flipped(body) if what == "flip" else body, cut=what == "cut")


def hang_up(request):
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def flipped(body):
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def process_environment(url, cache, **more):
    return {**os.environ, **environment(url, cache), "OMP_NUM_THREADS": "1", **more}
