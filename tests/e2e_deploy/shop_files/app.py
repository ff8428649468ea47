"""A shop that a test releases: pages, orders and an event stream, with a version and a way to be broken."""

import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION, MODE = (Path(__file__).parent / "VERSION").read_text().split()
stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/events":
            self.stream()
        elif self.path == "/health" and MODE == "broken":
            print("the payment service does not answer", flush=True)
            self.answer(500, {"version": VERSION})
        else:
            self.answer(200, {"version": VERSION, "service": os.environ.get("SERVICE", "web")})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(0.02)
        self.answer(200, {"version": VERSION, "bytes": len(body)})

    def stream(self) -> None:
        """Events until we are told to stop; then the stream ends as HTTP says, and the client comes back."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        number = 0
        while not stopping.wait(0.1):
            number += 1
            data = f"id: {number}\ndata: {VERSION}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet: only what matters is in the log."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    server = Server(("0.0.0.0", 8000), Handler)

    def stop(*_: object) -> None:
        stopping.set()
        threading.Timer(0.3, server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"shop {VERSION} listens", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stopping.wait()
    time.sleep(0.4)


if __name__ == "__main__":
    main()
