"""An OpenAPI document as a tool server: each operation is a tool, each call one HTTP request.

Arguments go only where the document says: path segments and queries are escaped, so that a value cannot become
another path, and headers that carry credentials cannot be set by a caller.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import yaml
from msgspec import Raw

from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange
from devtools_platform.gateway.mcp.messages import INVALID_PARAMS, METHOD_NOT_FOUND, MODERN, RpcError, raw, read_text
from devtools_platform.gateway.upstreams.http_client import HttpClient, HttpError, NotConnected, TooLarge
from devtools_platform.gateway.upstreams.http_link import Headers
from devtools_platform.gateway.upstreams.link import LinkDown, ServerFacts
from devtools_platform.gateway.upstreams.types import ServerSpec, matches

METHODS = ("get", "put", "post", "delete", "patch", "head")
MAX_DEPTH = 8
MAX_DOCUMENT_BYTES = 20_000_000
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_NEVER_SET = frozenset({"authorization", "cookie", "host", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str
    places: Mapping[str, str]
    """Argument -> path, query or header."""
    required: frozenset[str]
    has_body: bool
    definition: Mapping[str, Any]


@dataclass(frozen=True)
class OpenApiLink:
    operations: Mapping[str, Operation]
    client: HttpClient
    headers: Headers
    facts: ServerFacts
    max_bytes: int

    @staticmethod
    def read(file: Path, spec: ServerSpec, client: HttpClient, headers: Headers) -> "OpenApiLink":
        """Raises `LinkDown` when the document cannot be used."""
        try:
            if file.stat().st_size > MAX_DOCUMENT_BYTES:
                raise LinkDown(f"{str(file)!r} is larger than {MAX_DOCUMENT_BYTES} bytes.")
            text = file.read_bytes()
            document = msgspec.json.decode(text) if text.lstrip()[:1] == b"{" else yaml.safe_load(text)
        except (OSError, yaml.YAMLError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LinkDown(f"{str(file)!r} cannot be read: {error}.") from None
        if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):  # pyright: ignore[reportUnknownMemberType]
            raise LinkDown(f"{str(file)!r} is no OpenAPI document: it has no paths.")
        operations = {o.name: o for o in read_operations(document) if matches(o.name, spec.operations)}  # pyright: ignore[reportUnknownArgumentType]
        facts = ServerFacts("modern", MODERN, {"tools": {}}, "openapi")
        return OpenApiLink(operations, client, headers, facts, spec.max_result_bytes)

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        if call.method == "tools/list":
            return raw({"tools": [operation.definition for operation in self.operations.values()]})
        if call.method != "tools/call":
            raise RpcError(METHOD_NOT_FOUND, f"An OpenAPI server has no {call.method!r}.")
        operation = self.operations.get(read_text(call.params.get("name")) or "")
        if operation is None:
            raise RpcError(INVALID_PARAMS, "There is no such operation.")
        return await self._call(operation, _arguments(call.params.get("arguments")))

    async def _call(self, operation: Operation, arguments: Mapping[str, Any]) -> Raw:
        if missing := sorted(operation.required - set(arguments)):
            return _result(f"Missing arguments: {', '.join(missing)}.", None, is_error=True)
        path, query, extra = _fill(operation, arguments)
        base = self.client.target.path.rstrip("/")
        body = msgspec.json.encode(arguments["body"]) if operation.has_body and "body" in arguments else b""
        headers = {"accept": "application/json", **extra, **self.headers.values}
        if body:
            headers["content-type"] = "application/json"
        target = base + path + (f"?{query}" if query else "")
        try:
            reply = await self.client.send(
                operation.method.upper(), headers, body, max_bytes=self.max_bytes, path=target
            )
            answer = await reply.body()
        except TooLarge as error:
            raise LinkDown(str(error), may_have_run=True, is_fault=False) from None
        except (NotConnected, DevToolsError, OSError) as error:
            raise LinkDown(str(error), is_final=True) from None
        except HttpError as error:
            raise LinkDown(str(error), may_have_run=True) from None
        text = answer.decode("utf-8", "replace")
        is_error = reply.status >= 400  # noqa: PLR2004 - HTTP's own number
        try:
            data = msgspec.json.decode(answer)
        except (msgspec.MsgspecError, RecursionError):
            data = None
        prefix = f"HTTP {reply.status}\n" if is_error else ""
        return _result(prefix + text, data if isinstance(data, dict) else None, is_error=is_error)  # pyright: ignore[reportUnknownArgumentType]

    async def listen(self, client: Client, uris: tuple[str, ...] = ()) -> None:
        return

    async def close(self) -> None:
        self.client.close()


def _arguments(value: Raw | None) -> Mapping[str, Any]:
    decoded = msgspec.json.decode(value or b"{}")
    if not isinstance(decoded, dict):
        raise RpcError(INVALID_PARAMS, "arguments must be an object.")
    return decoded  # pyright: ignore[reportUnknownVariableType]


def _result(text: str, data: Any, *, is_error: bool) -> Raw:
    result: dict[str, Any] = {
        "resultType": "complete",
        "content": [{"type": "text", "text": text}],
        "isError": is_error,
    }
    if data is not None:
        result["structuredContent"] = data
    return raw(result)


def _fill(operation: Operation, arguments: Mapping[str, Any]) -> tuple[str, str, dict[str, str]]:
    path, query, headers = operation.path, list[tuple[str, str]](), dict[str, str]()
    for name, place in operation.places.items():
        if name not in arguments:
            continue
        value = arguments[name]
        if place == "path":
            segment = quote(_plain(value), safe="")
            if segment in {"", ".", ".."}:
                raise RpcError(INVALID_PARAMS, f"{name!r} cannot be {value!r}.")
            path = path.replace("{" + name + "}", segment)
        elif place == "query":
            items: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
            query += [(name, _plain(item)) for item in items]
        elif place == "header" and name.lower() not in _NEVER_SET:
            headers[name.lower()] = _plain(value)
    return path, urlencode(query), headers


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def read_operations(document: Mapping[str, Any]) -> list[Operation]:
    """Every operation of the document that can be called with JSON."""
    found: list[Operation] = []
    names: set[str] = set()
    for path, item in document["paths"].items():
        for method in METHODS:
            entry: Any = item.get(method) if isinstance(item, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if isinstance(entry, dict):
                operation = _read(document, str(path), method, item, entry)  # pyright: ignore[reportUnknownArgumentType]
                if operation.name not in names:
                    names.add(operation.name)
                    found.append(operation)
    return found


def _read(
    document: Mapping[str, Any], path: str, method: str, item: Mapping[str, Any], entry: Mapping[str, Any]
) -> Operation:
    name = _NOT_IN_A_NAME.sub("_", str(entry.get("operationId") or f"{method}{path}")).strip("_")[:64]
    properties: dict[str, Any] = {}
    places: dict[str, str] = {}
    required: set[str] = set()
    for parameter in [*item.get("parameters", []), *entry.get("parameters", [])]:
        full = _resolve(document, parameter)
        key, place = str(full.get("name", "")), str(full.get("in", ""))
        if place not in {"path", "query", "header"} or (place == "header" and key.lower() in _NEVER_SET):
            continue
        schema = _resolve(document, full.get("schema", {}))
        properties[key] = {**schema, "description": str(full.get("description") or schema.get("description", ""))}
        places[key] = place
        if full.get("required") or place == "path":
            required.add(key)
    body = _resolve(document, entry.get("requestBody", {}))
    schema = body.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        properties["body"] = _resolve(document, schema)
        if body.get("required"):
            required.add("body")
    words = [str(entry.get("summary") or ""), str(entry.get("description") or "")]
    definition = {
        "name": name,
        "description": "\n".join(word for word in dict.fromkeys(words) if word) or f"{method.upper()} {path}",
        "inputSchema": {"type": "object", "properties": properties, "required": sorted(required)},
        "annotations": {"readOnlyHint": method in {"get", "head"}, "destructiveHint": method == "delete"},
    }
    return Operation(name, method, path, places, frozenset(required), schema is not None, definition)


def _resolve(document: Mapping[str, Any], node: Any, depth: int = 0) -> Any:
    """`node` with references within the document replaced by what they name; what goes too deep becomes anything."""
    if isinstance(node, dict):
        if depth > MAX_DEPTH:
            return {}
        reference = node.get("$ref")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(reference, str):
            return _resolve(document, _look_up(document, reference), depth + 1)
        return {key: _resolve(document, value, depth + 1) for key, value in node.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(node, list):
        return [_resolve(document, item, depth + 1) for item in node]  # pyright: ignore[reportUnknownVariableType]
    return node


def _look_up(document: Mapping[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        node = node.get(key, {}) if isinstance(node, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return node  # pyright: ignore[reportUnknownVariableType]
