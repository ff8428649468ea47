"""What a model may do next, as values: branches, their JSON schema, their words in the instructions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pydantic_ai.exceptions import UserError
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition

Schema = dict[str, Any]
Enums = Callable[[str, str], Sequence[str] | None]
"""(tool, argument) -> the values that make sense just now, or None where any will do."""

FINAL = "final_answer"
"""The branch that ends the work with words or an object, where no output tool does."""
SHOWN_VALUES = 40
INTRODUCTION = 'Answer with one JSON object: {"tool": NAME, "arguments": {...}}. You can use:'
TEXT_SCHEMA: Schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@dataclass(frozen=True)
class Branch:
    name: str
    description: str
    schema: Schema
    kind: Literal["tool", "output_tool", "text", "object"]
    values: Mapping[str, Sequence[str]]
    """Arguments narrowed to the values that exist just now."""

    @property
    def is_final(self) -> bool:
        return self.kind != "tool"

    @property
    def takes_arguments(self) -> bool:
        return bool(self.schema.get("properties"))


def list_branches(parameters: ModelRequestParameters, enums: Enums) -> list[Branch]:
    """Every tool whose arguments can have a value, and the ways to end."""
    tools = [narrow(_branch_of(tool, "tool"), enums) for tool in parameters.declared_function_tools]
    branches = [branch for branch in tools if branch]
    branches += [_branch_of(tool, "output_tool") for tool in parameters.output_tools]
    if parameters.output_object and parameters.output_mode in {"native", "prompted"}:
        branches.append(Branch(FINAL, "The result.", parameters.output_object.json_schema, "object", {}))
    elif parameters.allow_text_output:
        branches.append(Branch(FINAL, "The answer in words.", TEXT_SCHEMA, "text", {}))
    names = [branch.name for branch in branches]
    if len(set(names)) != len(names):
        raise UserError(f"Two tools have one name among {sorted(names)}; {FINAL!r} is reserved.")
    return branches


def _branch_of(tool: ToolDefinition, kind: Literal["tool", "output_tool"]) -> Branch:
    return Branch(tool.name, tool.description or "", {"type": "object", **tool.parameters_json_schema}, kind, {})


def narrow(branch: Branch, enums: Enums) -> Branch | None:
    """The branch with live values as enums; None when an argument it needs has no value to take."""
    properties: dict[str, Schema] = dict(branch.schema.get("properties", {}))
    values: dict[str, Sequence[str]] = {}
    for argument, schema in properties.items():
        allowed = enums(branch.name, argument)
        if allowed:
            values[argument] = allowed
            properties[argument] = _narrow_strings(schema, list(allowed))
        elif allowed is not None and argument in branch.schema.get("required", ()):
            return None
    return replace(branch, schema={**branch.schema, "properties": properties}, values=values)


def _narrow_strings(schema: Schema, values: list[str]) -> Schema:
    """`schema` with its strings (its own, its items', its alternatives') limited to `values`."""
    if schema.get("type") == "string":
        return {**schema, "enum": values}
    if schema.get("type") == "array" and "items" in schema:
        return {**schema, "items": _narrow_strings(schema["items"], values)}
    if "anyOf" in schema:
        return {**schema, "anyOf": [_narrow_strings(member, values) for member in schema["anyOf"]]}
    return schema


def join_schemas(branches: Sequence[Branch]) -> Schema:
    """`{"tool": ..., "arguments": ...}` of any of `branches`. The tool comes first: it is decided first."""
    definitions: Schema = {}
    members: list[Schema] = []
    for branch in branches:
        arguments = flatten(branch.schema, f"{branch.name}.")
        definitions |= arguments.pop("$defs", {})
        members.append(
            {
                "type": "object",
                "properties": {"tool": {"const": branch.name}, "arguments": arguments},
                "required": ["tool", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": members, **({"$defs": definitions} if definitions else {})}


def flatten(root: Schema, prefix: str = "") -> Schema:
    """`root` with every `$ref` replaced by what it means.

    One that leads back to itself stays a reference, to a definition at the root named with `prefix`.
    """
    recursive: list[str] = []

    def walk(node: Any, opened: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(item, opened) for item in cast(list[Any], node)]
        if not isinstance(node, dict):
            return node
        schema = cast(Schema, node)
        reference = schema.get("$ref")
        rest = {key: walk(value, opened) for key, value in schema.items() if key not in {"$ref", "$defs"}}
        if not isinstance(reference, str):
            return rest
        if reference not in opened:
            return {**walk(_resolve(root, reference), (*opened, reference)), **rest}
        if reference not in recursive:
            recursive.append(reference)
        return {"$ref": f"#/$defs/{prefix}{_name_of(reference)}", **rest}

    flat: Schema = walk(root, ())
    definitions: Schema = {}
    for reference in recursive:  # grows on the way, when a definition leads to another
        definitions[prefix + _name_of(reference)] = walk(_resolve(root, reference), (reference,))
    return {**flat, **({"$defs": definitions} if definitions else {})}


def _resolve(root: Schema, reference: str) -> Any:
    node: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"The JSON schema refers to {reference!r}, which it does not define.")
        node = cast(Schema, node)[key]
    return node


def _name_of(reference: str) -> str:
    return reference.rpartition("/")[2]


def describe(branches: Sequence[Branch]) -> str:
    """The catalogue for the instructions. Says nothing that changes from turn to turn."""
    return "\n".join([INTRODUCTION, *map(_describe_one, branches)])


def _describe_one(branch: Branch) -> str:
    properties: dict[str, Schema] = branch.schema.get("properties", {})
    required = branch.schema.get("required", ())
    signature = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type_name(schema)}" for name, schema in properties.items()
    )
    lines = [f"- {branch.name}({signature}){' [ends the work]' if branch.is_final else ''} {branch.description}"]
    lines += [f"    {name}: {text}" for name, schema in properties.items() if (text := schema.get("description"))]
    return "\n".join(lines)


def _type_name(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_name(member) for member in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema.get('items', {}))}"
    return str(schema.get("type") or _name_of(str(schema.get("$ref", "any"))))


def describe_values(branches: Sequence[Branch]) -> str:
    """The live values. Said last in the chat, where they spoil no cached prefix."""
    return "\n".join(
        f"{branch.name}: {argument} is one of {', '.join(values[:SHOWN_VALUES])}"
        for branch in branches
        for argument, values in branch.values.items()
    )
