"""What the model learnt about code, on top of its package's weights: added to them as it is loaded.

`code.npz` holds, of a matrix, two thin ones whose product is the difference (low-rank adaptation, arXiv 2106.09685),
and of a bias or a norm the difference itself. `bench/tune_embeddings.py` makes it. Decision 115.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from devtools_platform.core.errors import Unavailable

CHANGES = "code.npz"
LARGEST = 127
"""Of the bytes that hold a weight, as in the package's file."""


def load_changes() -> dict[str, Any]:
    import numpy as np

    found = resources.files("devtools_platform.context.adapters.minilm") / CHANGES
    with found.open("rb") as file, np.load(file) as changes:
        return {name: changes[name].astype(np.float32) for name in changes.files}


def add(changes: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Change the ONNX tensors, by name. Raises `Unavailable` where one that is to change is not there."""
    for name in changes:
        kind = name.rpartition(".")[2]
        target = name.removesuffix(f".{kind}")
        known = {"down": (f"{target}_q", f"{target}_scale"), "up": (), "change": (target,)}[kind]
        if missing := [tensor for tensor in known if tensor not in tensors]:
            raise Unavailable(f"The embedding model has no weights {', '.join(missing)} that could be tuned.")
        if kind == "down":
            product = changes[name] @ changes[f"{target}.up"]
            _add_to_bytes(tensors[f"{target}_q"], tensors[f"{target}_scale"], product)
        elif kind == "change":
            _add_to_floats(tensors[target], changes[name])


def _add_to_floats(tensor: Any, change: Any) -> None:
    import numpy as np

    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + change).tobytes()


def _add_to_bytes(tensor: Any, scales: Any, change: Any) -> None:
    """One scale for each column, as before: it gives the column's largest weight the largest byte."""
    import numpy as np

    weights = np.frombuffer(tensor.raw_data, np.int8).reshape(change.shape) * np.frombuffer(scales.raw_data, np.float32)
    weights += change
    scale = np.abs(weights).max(axis=0) / LARGEST
    tensor.raw_data = np.rint(weights / scale).astype(np.int8).tobytes()
    scales.raw_data = scale.astype(np.float32).tobytes()
