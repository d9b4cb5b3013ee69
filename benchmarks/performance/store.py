"""An S3 server (moto) on the loopback interface, and a proxy before it that answers as late as a distant one.

Run:  python -m benchmarks.performance.store PORT SECONDS     a proxy before the server at PORT, until its input ends
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

from querying.base.errors import UserError

BUCKET = "datasets"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "their-secret", "AWS_REGION": "us-east-1",
    "GOOGLE_BEARER_TOKEN": "a-token",
}  # fmt: skip
_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


def check_there() -> None:
    """UserError where server or client are not installed: both are for development only."""
    for name in ("moto", "obstore"):
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install 's4al-plus[dev]'")


@contextmanager
def moto_server() -> Iterator[int]:
    """Its port; a process of its own, with one bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                make_bucket(port, BUCKET)
                break
            except OSError:
                assert server.poll() is None, "moto ended"
                assert time.monotonic() < end, "moto does not start"
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def make_bucket(port: int, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()


@contextmanager
def distant(port: int, seconds: float) -> Iterator[str]:
    """The URL of a proxy before the server at `port`, a process of its own, that waits before every request."""
    command = [sys.executable, "-m", "benchmarks.performance.store", str(port), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout, proxy.args
        yield proxy.stdout.readline().strip()  # it ends when its input is closed


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class Proxy:
    """Passes requests on, each after so many seconds."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, seconds: float = 0.0) -> None:
        self.port, self.seconds = port, seconds
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        self.handler, self.host = Handler, host
        self.listen(0)
        self.url: str = f"http://{host}:{self.server.server_address[1]}"

    def listen(self, port: int) -> None:
        """On this port; 0 is a free one."""
        self.server = _Server((self.host, port), self.handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        sent = sent_with(request)
        time.sleep(self.seconds)
        send_answer(request, *self.asked(request, sent))

    def asked(self, request: BaseHTTPRequestHandler, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """The server's answer to a request, with this body."""
        headers = dict(request.headers)
        if headers.get("x-goog-if-generation-match") == "0":  # Google's word for it
            headers["If-None-Match"] = "*"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(request.command, request.path, body=sent, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        return answer.status, kept, body


def sent_with(request: BaseHTTPRequestHandler) -> bytes:
    return request.rfile.read(int(request.headers.get("content-length") or 0))


def send_answer(
    request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False
) -> None:
    """Half of it where it is to be `cut`."""
    try:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            request.close_connection = True
    except OSError:
        request.close_connection = True


def environment(url: str, cache: object) -> dict[str, str]:
    """What a process needs to reach the store."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": url, "GOOGLE_BASE_URL": url, "S4AL_CACHE": str(cache)}


if __name__ == "__main__":
    print(Proxy(int(sys.argv[1]), seconds=float(sys.argv[2])).url, flush=True)
    sys.stdin.read()
