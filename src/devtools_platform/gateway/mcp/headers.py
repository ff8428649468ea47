"""What the stateless revision repeats in HTTP headers, so that intermediaries need not read bodies.

`Mcp-Name` names the tool; `Mcp-Param-*` repeats those arguments whose schema carries `x-mcp-header`. Values that do
not fit a header travel as `=?base64?...?=`. A header that says something else than the body is refused.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devtools_platform.gateway.mcp.messages import HEADER_MISMATCH, RpcError, as_object

ANNOTATION = "x-mcp-header"
PREFIX = "Mcp-Param-"
_PLAIN = re.compile(r"[\x20-\x7e]*")
_WRAPPED = re.compile(r"=\?base64\?(?P<payload>.*)\?=", re.DOTALL)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.0+)?")
_TYPES = frozenset({"string", "integer", "boolean"})
MAX_DEPTH = 16


@dataclass(frozen=True)
class ParamHeader:
    """One argument that a header repeats."""

    path: tuple[str, ...]
    name: str
    type: str


def encode_value(value: str) -> str:
    """`value` as a header can carry it."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _WRAPPED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def decode_value(value: str | None) -> str | None:
    """What a header carries; None for one that is damaged, which then matches nothing."""
    if value is None or not value.startswith("=?"):
        return value
    wrapped = _WRAPPED.fullmatch(value)
    if wrapped is None:
        return value
    payload = wrapped["payload"]
    try:
        decoded = base64.b64decode(payload, validate=True)
        text = decoded.decode()
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(decoded).decode() == payload else None


def param_headers(schema: Any) -> tuple[ParamHeader, ...]:
    """The annotated arguments of a schema; none at all when any annotation is not as the specification wants it."""
    found = list(_walk(schema, (), 0))
    names = [header.name.lower() for header in found]
    are_sound = all(_TOKEN.fullmatch(h.name) and h.type in _TYPES for h in found) and len(set(names)) == len(names)
    return tuple(found) if are_sound else ()


def _walk(schema: Any, path: tuple[str, ...], depth: int) -> Iterator[ParamHeader]:
    for key, inner in as_object(as_object(schema).get("properties")).items() if depth < MAX_DEPTH else ():
        if (name := as_object(inner).get(ANNOTATION)) is not None:
            yield ParamHeader((*path, key), str(name), str(as_object(inner).get("type")))
        yield from _walk(inner, (*path, key), depth + 1)


def headers_for(declared: tuple[ParamHeader, ...], arguments: Any) -> dict[str, str]:
    """The headers a call with these arguments carries."""
    found: dict[str, str] = {}
    for header in declared:
        text = _render(_at(arguments, header.path))
        if text is not None:
            found[PREFIX + header.name] = encode_value(text)
    return found


def check_headers(declared: tuple[ParamHeader, ...], arguments: Any, headers: Mapping[bytes, bytes]) -> None:
    """Raises `RpcError` when a header and the argument it repeats are not there together, or differ."""
    for header in declared:
        name = PREFIX + header.name
        given = headers.get(name.lower().encode())
        expected = _render(_at(arguments, header.path))
        if (given is None) != (expected is None):
            missing = "header" if given is None else "argument"
            raise RpcError(HEADER_MISMATCH, f"{name} and {'.'.join(header.path)!r}: the {missing} is missing.")
        if given is not None and not _agree(header.type, decode_value(given.decode("latin-1")), expected):
            raise RpcError(HEADER_MISMATCH, f"The header {name} does not match {'.'.join(header.path)!r} of the body.")


def _agree(kind: str, given: str | None, expected: str | None) -> bool:
    if kind == "integer" and given and expected and _DECIMAL.fullmatch(given) and _DECIMAL.fullmatch(expected):
        return int(given.partition(".")[0]) == int(expected.partition(".")[0])
    return given is not None and given == expected


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = as_object(value).get(key)
    return value


def _render(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None
