"""Requests: which colour gets them, when the old one has none left, and whether the new one answers.

Caddy's upstream is a file (`{file.…}`), read at every request. Changing its configuration instead reloads it and
cuts connections: 4 to 5 lost requests a flip, measured; a renamed file lost none.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from devtools_platform.deploy.host.store import COLOURS, HostConfig, Refused, Store, write_text

TIMEOUT_S = 5
POLL_S = 0.05
MAX_BODY = 100_000
URGENT = frozenset({"critical", "page"})
"""Severities that somebody is woken for: many rules say `critical`, ours say `page`."""
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def address(config: HostConfig, colour: str, index: int) -> str:
    """Where the `index`-th endpoint of a colour listens: only on this machine."""
    return f"127.0.0.1:{config.ports + 100 * COLOURS.index(colour) + index}"


def write_upstreams(store: Store, colour: str, endpoints: Sequence[Mapping[str, Any]]) -> None:
    """One file an endpoint, for a colour that does not serve yet."""
    for index, endpoint in enumerate(endpoints):
        write_text(store.path / "colours" / colour / endpoint["name"], address(store.config, colour, index))


def upstreams(store: Store, colour: str) -> list[str]:
    folder = store.path / "colours" / colour
    return [file.read_text() for file in sorted(folder.glob("[!.]*"))] if folder.is_dir() else []


def check_caddy(store: Store, nonce: str) -> None:
    """Raises `Refused` unless Caddy answers with what we have just written into a file.

    Older ones (2.6 of Debian 12) do not know `{file.…}` and would answer every request with 502.
    """
    url = store.config.caddy_check
    if url is None:
        return
    write_text(store.path / "check", nonce)
    status, body = get(url)
    if status != 200 or body.strip() != nonce:  # noqa: PLR2004 - HTTP's own number
        text = f"Caddy at {url} does not read upstreams from files: it answered {status}, {body[:100]!r}."
        raise Refused("caddy", text, "It needs Caddy 2.8 or newer with our Caddyfile: `dev-tools host check`.")


def requests_in_flight(store: Store, colour: str) -> int | None:
    """Requests that Caddy has open at a colour; None when it does not say."""
    status, body = get(f"{store.config.caddy_admin}/reverse_proxy/upstreams")
    if status != 200:  # noqa: PLR2004 - HTTP's own number
        return None
    addresses = set(upstreams(store, colour))
    return sum(entry["num_requests"] for entry in json.loads(body) if entry["address"] in addresses)


def drain(store: Store, colour: str, limit_s: float) -> int | None:
    """Wait until a colour has no open requests, at most `limit_s`. What is left: streams; None for unknown."""
    deadline = time.monotonic() + limit_s
    while True:
        left = requests_in_flight(store, colour)
        if left == 0 or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)


def probe(url: str, tries: int = 3) -> None:
    """Raises `Refused` (`probe_failed`) unless it answers 200 within `tries`."""
    status, body = None, ""
    for left in reversed(range(tries)):
        status, body = get(url)
        if status == 200:  # noqa: PLR2004 - HTTP's own number
            return
        if left:
            time.sleep(0.3)
    raise Refused("probe_failed", f"{url} answered {status or 'nothing'}: {body[:300]}")


def watch(urls: Sequence[str], seconds: float, also: Callable[[], None]) -> int:
    """Ask `urls` again and again for that long. Raises `Refused` at the first failure; returns how often it asked."""
    deadline, rounds = time.monotonic() + seconds, 0
    while True:
        for url in urls:
            probe(url, tries=1)
        also()
        rounds += 1
        if time.monotonic() >= deadline:
            return rounds
        time.sleep(min(0.25, max(0.0, deadline - time.monotonic())))


def firing_alerts(prometheus: str) -> list[str]:
    """Names of urgent alerts that fire now. Raises `Refused` where Prometheus does not say."""
    status, body = get(f"{prometheus}/api/v1/alerts")
    try:
        alerts = json.loads(body)["data"]["alerts"] if status == 200 else None  # noqa: PLR2004 - HTTP's own number
    except (ValueError, KeyError, TypeError):
        alerts = None
    if alerts is None:
        raise Refused("gate", f"Prometheus at {prometheus} does not tell its alerts (HTTP {status or 'no answer'}).")
    firing = (a["labels"] for a in alerts if a.get("state") == "firing")
    return sorted({labels.get("alertname", "?") for labels in firing if labels.get("severity") in URGENT})


def get(url: str) -> tuple[int | None, str]:
    """Status and body; None for the status when nothing answered."""
    try:
        with _opener.open(url, timeout=TIMEOUT_S) as response:
            return response.status, response.read(MAX_BODY).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(MAX_BODY).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        return None, str(error)
