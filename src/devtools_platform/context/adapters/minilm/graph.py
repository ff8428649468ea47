"""The model's graph, rewritten before it is loaded: bytes stay bytes until something is made of them.

The package's file keeps its weights in bytes with scales, and casts whole tables of them to floats before it uses a
row. The runtime does that once, when it loads, and keeps the floats: four times the memory, and products of floats
where the processor has instructions for bytes. Here a row is looked up first and cast then, which gives the very same
numbers, and a product is made of bytes (what comes in is quantised as it comes) and scaled afterwards, which gives
numbers that differ in the third digit. Decision 112.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from devtools_platform.context.adapters.minilm import tuning
from devtools_platform.core.errors import Unavailable

_REPEATED = {"input", "output", "node", "initializer"}


def rewrite(model: bytes, changes: Mapping[str, Any]) -> bytes:
    """The ONNX model, its weights changed (`tuning.py`), its lookups and products rewritten.

    Raises `Unavailable` where none is as expected.
    """
    whole: Any = _MODEL.FromString(model)
    tuning.add(changes, {tensor.name: tensor for tensor in whole.graph.initializer})
    nodes = list(whole.graph.node)
    makers = {name: node for node in nodes for name in node.output}
    sizes = {"Gather": 0, "MatMul": 0}
    for node in nodes:
        weights = _find_weights(node, makers)
        if weights is not None:
            sizes[node.op_type] += 1
            (_look_up if node.op_type == "Gather" else _multiply)(whole.graph.node, node, *weights)
    if not all(sizes.values()):
        raise Unavailable(f"The embedding model's graph is not the one that is known: {sizes}.")
    return whole.SerializeToString()


def _find_weights(node: Any, makers: Any) -> tuple[Any, Any] | None:
    """The two nodes that make floats of a node's weights: a cast of the bytes, times the scales."""
    place = {"Gather": 0, "MatMul": 1}.get(node.op_type)
    scaled = makers.get(node.input[place]) if place is not None else None
    if scaled is None or scaled.op_type != "Mul" or not scaled.input[1].endswith("_scale"):
        return None
    return makers[scaled.input[0]], scaled


def _look_up(nodes: Any, gather: Any, cast: Any, scaled: Any) -> None:
    """Rows of bytes and their scales are looked up; only these are cast and multiplied."""
    table, rows, result, scales = cast.input[0], gather.input[1], gather.output[0], scaled.input[1]
    _wire(gather, [table, rows], f"{result}_bytes")
    _wire(cast, [f"{result}_bytes"], f"{result}_cast")
    nodes.add(op_type="Gather", name=f"{result}_scales", input=[scales, rows], output=[f"{result}_scales"])
    _wire(scaled, [f"{result}_cast", f"{result}_scales"], result)


def _multiply(nodes: Any, product: Any, cast: Any, scaled: Any) -> None:
    """What comes in becomes bytes, the product is made of integers, then cast, then multiplied by both scales."""
    given, weights, result, scales = product.input[0], cast.input[0], product.output[0], scaled.input[1]
    quantised = [f"{given}_bytes", f"{given}_scale", f"{given}_zero"]
    if not any(node.name == f"{given}_quantise" for node in nodes):
        nodes.add(op_type="DynamicQuantizeLinear", name=f"{given}_quantise", input=[given], output=quantised)
    product.op_type = "MatMulInteger"
    _wire(product, [quantised[0], weights, quantised[2]], f"{result}_integers")
    _wire(cast, [f"{result}_integers"], f"{result}_cast")
    nodes.add(op_type="Mul", name=f"{result}_scales", input=[quantised[1], scales], output=[f"{result}_scales"])
    _wire(scaled, [f"{result}_cast", f"{result}_scales"], result)


def _wire(node: Any, inputs: list[str], output: str) -> None:
    node.input[:] = inputs
    node.output[:] = [output]


def _describe() -> Any:
    """As much of ONNX's messages as is changed here; what is not named is carried along as it is.

    Numbers are of onnx.proto3 (ModelProto, GraphProto, NodeProto, TensorProto).
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="part_of_onnx.proto", package="part_of_onnx")
    for message, fields in {
        "Node": {"input": 1, "output": 2, "name": 3, "op_type": 4},
        "Tensor": {"name": 8, "raw_data": 9},
        "Graph": {"node": 1, "initializer": 5},
        "Model": {"graph": 7},
    }.items():
        described = file.message_type.add(name=message)
        for name, number in fields.items():
            kind = {"node": "Node", "initializer": "Tensor", "graph": "Graph"}.get(name)
            plain = field.TYPE_BYTES if name == "raw_data" else field.TYPE_STRING
            described.field.add(
                name=name,
                number=number,
                type=field.TYPE_MESSAGE if kind else plain,
                type_name=f".part_of_onnx.{kind}" if kind else None,
                label=field.LABEL_REPEATED if name in _REPEATED else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("part_of_onnx.Model"))


_MODEL: Any = _describe()
