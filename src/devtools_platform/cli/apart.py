"""The process behind `dev-tools up --only`: it replaces the command once its arguments are read.

Reading them takes typer and rich, and the commands beside `up` what they work with: 30 MB that services which run
for months, several on a small host, do not need. Imports neither, so what it says it says plainly.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, cast

from devtools_platform.config import Settings, load_settings
from devtools_platform.config.settings import Service
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.memory import give_back_memory, keep_few_arenas


def become(overrides: Mapping[str, Any], services: frozenset[Service], *, as_json: bool) -> None:
    """Replace this process by one that runs `services` with the settings and `overrides` on top. Never returns."""
    told = json.dumps({"overrides": overrides, "services": sorted(services), "as_json": as_json}, default=str)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: nothing is imported from the folder one stands in, which may be somebody's repository.
    os.execv(sys.executable, [sys.executable, "-P", "-m", __name__, told])  # noqa: S606 - our own module, no shell


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    keep_few_arenas()
    try:
        settings = load_settings(told["overrides"])
        from devtools_platform.app.serving import run  # after the settings: what is wrong with them is told at once

        run(_serve(settings, frozenset(cast("list[Service]", told["services"])), as_json=told["as_json"]))
    except DevToolsError as error:
        if told["as_json"]:
            _print({"error": error.to_dict()})
        else:
            _say(f"error: {error}\nnext:  {error.hint}")
        sys.exit(error.exit_code)


async def _serve(settings: Settings, services: frozenset[Service], *, as_json: bool) -> None:
    from devtools_platform.app.stack import Stack, facts_of

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with Stack(settings, lambda part, text: _say(f"  {part:<10}{text}"), services).run() as running:
        if as_json:
            _print(facts_of(running))
        else:
            _say(f"  up in {running.started_in_s:.1f} s. Ctrl-C ends it.")
            if running.console_link is not None:
                _say(f"\n  console  {running.console_link}\n")
        give_back_memory()  # what reading code and building models took
        await stop.wait()
        _say("  stopping")
    _say("  stopped")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _print(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
