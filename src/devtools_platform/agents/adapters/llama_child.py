"""The process that holds the embedded model: llama.cpp's own server on a free loopback port.

Run by path, by `llama_server`, which writes the options to standard input and waits for the line that names
the address. It imports nothing of ours, so that a crash in native code takes down nothing but itself.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

READY = "ready "
PR_SET_PDEATHSIG = 1
PROMPT_CACHE_MIB = 512
"""Room for the states of earlier prompts. llama.cpp would take 8 GiB."""


def main() -> None:
    options = json.loads(sys.stdin.readline())
    _die_with(options["parent"])
    server = _start_server(options)
    sys.stdout.write(f"{READY}{server.listening_address}\n")
    sys.stdout.flush()
    while True:
        signal.pause()


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _start_server(options: dict[str, Any]) -> Any:
    """Returns when the model is loaded."""
    # OpenMP threads spin while they wait: on a machine shared with a database that costs ten times the speed.
    os.putenv("OMP_WAIT_POLICY", "passive")
    os.putenv("GOMP_SPINCOUNT", "0")
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = options["model_file"]
    params.n_ctx = options["context"]
    params.n_parallel = 1
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.cache_prompt = True
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [options["api_key"]]
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = options["verbosity"]
    return llama.Server(params)


if __name__ == "__main__":
    main()
