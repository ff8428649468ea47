"""A deployer's session on the droplet: one JSON object a line each way, over one SSH connection.

The session holds the host's lock. The lock is free as soon as this process ends, and it ends at once when the
connection does, or when nothing was heard for `SILENCE_S` (a cut network closes no connection).
"""

import hashlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import IO, Any

from devtools_platform.deploy.host.debug import debug, overview
from devtools_platform.deploy.host.engine import Engine
from devtools_platform.deploy.host.rollout import HostRollout
from devtools_platform.deploy.host.store import Refused, Store, load_config

SILENCE_S = 3.5
"""With a beat every second, this and a scheduling delay stay below the 5 s after which the lock must be free."""
MAX_LINE = 8_000_000


@dataclass
class Session:
    """Reads requests, answers each with `{"ok": …}`, and sends `{"say": …}` lines in between."""

    store: Store
    engine: Engine
    heard: float = field(default_factory=time.monotonic)
    requests: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue[dict[str, Any]])
    lock: IO[str] | None = None
    actor: str = "unknown"

    def run(self) -> None:
        """Serve until the deployer hangs up."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._guard, daemon=True).start()
        while True:
            request = self.requests.get()
            _send(self._answer(request))

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, "result": self._carry_out(str(request.get("do")), request)}
        except Refused as error:
            return {"ok": False, "error": {"code": error.code, "message": str(error), "hint": error.hint}}
        except (KeyError, TypeError, ValueError, OSError) as error:
            text = f"{request.get('do')}: {type(error).__name__}: {error}"
            return {"ok": False, "error": {"code": "host_failed", "message": text, "hint": ""}}

    def _carry_out(self, action: str, request: Mapping[str, Any]) -> Any:
        args: Mapping[str, Any] = request.get("args") or {}
        if action == "debug":
            return debug(self.store, self.engine, args["service"], int(args.get("lines", 100)))
        if action == "overview":
            return overview(self.store, self.engine)
        if action == "audit":
            return self.store.audit()
        rollout = HostRollout(self.store, self.engine, self.actor, lambda text: _send({"say": text}))
        if action == "lock":
            self.actor = str(args["actor"])
            self.lock = self.store.lock(f"{self.actor} since {time.strftime('%H:%M:%S', time.gmtime())} UTC")
            return rollout.state({})
        if action != "state" and self.lock is None:
            raise Refused("not_locked", f"{action!r} needs the lock.")
        return rollout.call(action, args)

    def _listen(self) -> None:
        while line := sys.stdin.readline(MAX_LINE):
            self.heard = time.monotonic()
            try:
                request = json.loads(line)
            except ValueError:
                break
            if request.get("do") != "beat":
                self.requests.put(request)
        self._end()

    def _guard(self) -> None:
        while time.monotonic() - self.heard < SILENCE_S:
            time.sleep(0.1)
        self._end()

    def _end(self) -> None:
        """End now, with what we started; a thread cannot be asked, so nothing is asked."""
        self.engine.end_children()
        os._exit(0)


def main(argv: list[str]) -> int:
    """`host.pyz CONFIG`: serve one session."""
    try:
        config = load_config(Path(argv[0]))
    except Refused as error:
        _send({"ok": False, "error": {"code": error.code, "message": str(error), "hint": error.hint}})
        return 1
    _send({"ok": True, "result": {"program": own_hash(), "application": config.application}})
    Session(Store(config), Engine(config.environment)).run()
    return 0


def own_hash() -> str:
    """What this program is, so that a deployer notices an old one."""
    total = hashlib.sha256()
    files = resources.files("devtools_platform.deploy.host").iterdir()
    for file in sorted(files, key=lambda file: file.name):
        if file.name.endswith(".py"):
            total.update(file.read_bytes())
    return total.hexdigest()


def _send(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
