"""Clients that forgive nothing: keep-alive GETs and POSTs without a retry, and an event stream. Ends on SIGTERM.

A stream that ends as HTTP says is opened again, as browsers do; one that is cut is a failure.
"""

import http.client
import json
import signal
import sys
import threading
import time

HOSTS = sys.argv[1:]
METHODS = [*["GET"] * 8, *["POST"] * 4]
"""What the clients do: they are shared out over the hosts, and each host has an event stream beside them."""
PAUSE_S = 0.02
"""Between two requests of a client: the clients share two cores with everything that they watch."""
stop = threading.Event()
lock = threading.Lock()
counts = {"requests": 0, "events": 0, "streams": 0}
failures: list[str] = []
versions: set[str] = set()
slowest = [0.0]


def note(kind: str, error: object) -> None:
    with lock:
        failures.append(f"{kind}: {error!r}")


def ask(host: str, method: str) -> None:
    connection = http.client.HTTPConnection(host, 80, timeout=10)
    while not stop.is_set():
        began = time.perf_counter()
        try:
            connection.request(method, "/orders", body=b"x" * 500 if method == "POST" else None)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                note(method, response.status)
            else:
                versions.add(json.loads(body)["version"])
        except (OSError, http.client.HTTPException) as error:
            note(method, error)
            connection.close()
            connection = http.client.HTTPConnection(host, 80, timeout=10)
        with lock:
            counts["requests"] += 1
            slowest[0] = max(slowest[0], time.perf_counter() - began)
        time.sleep(PAUSE_S)
    connection.close()


def listen(host: str) -> None:
    while not stop.is_set():
        connection = http.client.HTTPConnection(host, 80, timeout=10)
        try:
            connection.request("GET", "/events")
            response = connection.getresponse()
            counts["streams"] += 1
            if response.status != 200:
                note("SSE", response.status)
            while not stop.is_set() and (line := response.readline()):
                counts["events"] += line.startswith(b"data:")
        except (OSError, http.client.HTTPException) as error:
            note("SSE", error)
        finally:
            connection.close()


threads = [threading.Thread(target=ask, args=(HOSTS[n % len(HOSTS)], m)) for n, m in enumerate(METHODS)]
threads += [threading.Thread(target=listen, args=(host,)) for host in HOSTS]
signal.signal(signal.SIGTERM, lambda *_: stop.set())
for thread in threads:
    thread.start()
print("running", flush=True)
stop.wait()
for thread in threads:
    thread.join()
print(json.dumps({**counts, "failures": failures, "versions": sorted(versions), "slowest_s": round(slowest[0], 3)}))
