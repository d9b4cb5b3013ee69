"""An S3 server (moto) on the loopback interface, and a proxy before it that does what networks do."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "datasets"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "their-secret", "AWS_REGION": "us-east-1",
    "GOOGLE_BEARER_TOKEN": "a-token",
}  # fmt: skip
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


@contextmanager
def moto_server():
    """Its port; a process of its own, with one bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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


def make_bucket(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()


class Proxy:
    """Passes requests on.  `fault(method, path, number)` says what becomes of the number-th request (from 1 on, since
    `reset`): None passes it on; 500, 503, 403 answer it; `drop` closes the connection, `lose` does when it was passed
    on; `cut` passes half of the answer on; `flip` changes a bit of it, `flip-up` one of what is sent; a float waits so
    many seconds first.
    """

    def __init__(self, port, host="127.0.0.1"):
        self.port, self.lock = port, threading.Lock()
        self.reset()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                proxy.pass_on(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self.serve = lambda port: Server((host, port), Handler)
        self.server = self.serve(0)
        self.url = f"http://{host}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextmanager
    def away(self):
        """Nobody listens, and what was connected is not answered any more."""
        self.reset(lambda method, path, number: "drop")
        self.close()
        yield
        self.reset()
        self.server = self.serve(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self, fault=lambda method, path, number: None):
        with self.lock:
            self.seen, self.fault = [], fault

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def pass_on(self, request):
        sent = request.rfile.read(int(request.headers.get("content-length") or 0))
        with self.lock:
            self.seen.append((request.command, request.path))
            what = self.fault(request.command, request.path, len(self.seen))
        if what == "drop":
            hang_up(request)
            return
        if isinstance(what, float):
            time.sleep(what)
        if what in (500, 503, 403):
            self.answer(request, what, {}, b"")
            return
        if what == "flip-up":
            sent = flipped(sent)
        headers = dict(request.headers)
        if headers.get("x-goog-if-generation-match") == "0":  # Google's word for it
            headers["If-None-Match"] = "*"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(request.command, request.path, body=sent, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if what == "lose":
            hang_up(request)
            return
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
        self.answer(request, answer.status, kept, flipped(body) if what == "flip" else body, cut=what == "cut")
        connection.close()

    def answer(self, request, status, headers, body, *, cut=False):
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


def hang_up(request):
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def flipped(body):
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def environment(url, cache):
    """What a process needs to reach the store."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": url, "GOOGLE_BASE_URL": url, "S4AL_CACHE": str(cache)}


def process_environment(url, cache, **more):
    return {**os.environ, **environment(url, cache), "OMP_NUM_THREADS": "1", **more}
