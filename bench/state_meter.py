"""What `state.py` and its two kinds of workers share: the shape of the work, CPU time, and the line of results.

Imports nothing of ours: LangGraph's workers run in an environment of their own.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

RESULT = "x" * 200
ROUNDS = 3
"""Each rate is the median of so many measurements in one process, after one that is not counted."""
FIRST_EFFECTS = 20
EFFECTS = 80


def server_cpu_s(postmaster: int) -> float:
    """CPU seconds of the database server so far: its living processes, and the ones it has waited for."""
    if not postmaster:
        return 0.0
    server = psutil.Process(postmaster)
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in server.children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


@dataclass
class Meter:
    """Wall and CPU time of rounds of `units` each."""

    postmaster: int
    rounds: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    _began: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def start(self) -> None:
        self._began = (time.perf_counter(), own_cpu_s(), server_cpu_s(self.postmaster))

    def stop(self, units: int) -> None:
        wall, own, server = self._began
        self.rounds.append(
            {
                "per_s": units / (time.perf_counter() - wall),
                "worker_cpu_ms": 1000 * (own_cpu_s() - own) / units,
                "server_cpu_ms": 1000 * (server_cpu_s(self.postmaster) - server) / units,
            }
        )

    def result(self) -> dict[str, float]:
        counted = self.rounds[1:]
        return {name: round(median(row[name] for row in counted), 2) for name in counted[0]}


def add_effect(file: Path, number: int) -> None:
    """The outside world: one appended line a step."""
    with file.open("a") as out:
        out.write(f"{number}\n")


def emit(result: dict[str, Any]) -> None:
    """The last line of a worker's standard output."""
    print(json.dumps(result), flush=True)


def wait_for_go() -> None:
    """Tell the parent that this worker could begin, and begin when it says so."""
    print("ready", flush=True)
    sys.stdin.readline()
