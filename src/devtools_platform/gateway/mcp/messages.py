"""JSON-RPC messages, decoded only as far as a gateway must look.

`params`, `result` and `arguments` stay the bytes they came as (`msgspec.Raw`) and are passed on as such. Below
this module is the codec, above it the front door and the upstreams; it knows no transport.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

MODERN = "2026-07-28"
"""The stateless revision: every request carries its own version and capabilities."""
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions with the `initialize` handshake, the newest first."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
REFUSED = -32010
"""Ours: the caller may not do this; `data` holds code, message and hint."""
UNAVAILABLE = -32011
"""Ours: the server behind a tool does not answer now; `data` says when it is tried again."""

HTTP_STATUS: Mapping[int, int] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The status a modern response carries for an error code; 200 for all others."""

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
CLIENT_KEY = "io.modelcontextprotocol/clientInfo"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"
INPUT_KEY = "dev-tools/input-key"
"""`_meta` of a request from a legacy server: the name its question has for a client of the stateless revision."""

INPUT_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Only these may be answered with `input_required`."""
NAME_OF: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Method -> the parameter that the header `Mcp-Name` repeats."""
LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Id = int | str
Params = dict[str, Raw]


class Message(msgspec.Struct):
    """Any JSON-RPC message: a request has method and id, a notification a method, a response neither."""

    jsonrpc: str
    id: Id | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class ErrorBody(msgspec.Struct):
    code: int
    message: str
    data: Raw | UnsetType = UNSET


class RpcError(Exception):
    """A JSON-RPC error as it will stand on the wire."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def to_bytes(self) -> bytes:
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return encode(body)


def refusal(code: str, message: str, hint: str) -> RpcError:
    """What the caller may not do, and what to do about it."""
    return RpcError(
        REFUSED, message, {"code": code, "message": message, "hint": hint or "Ask whoever runs the gateway."}
    )


encode = msgspec.json.encode
decode = msgspec.json.decode
_message = msgspec.json.Decoder(Message)
_params = msgspec.json.Decoder(Params)
_error = msgspec.json.Decoder(ErrorBody)
_text = msgspec.json.Decoder(str)

NOTHING = Raw(b"{}")


def read_message(data: bytes) -> Message:
    """One message. Raises `RpcError` for what is no JSON, no UTF-8 or no single JSON-RPC message."""
    try:
        if not data.isascii():
            data.decode()  # what is skipped below is not checked there, and a child may die of it
        message = _message.decode(data)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_REQUEST, f"Not one JSON-RPC 2.0 message: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RpcError(PARSE_ERROR, f"Not JSON: {error}.") from None
    if message.jsonrpc != "2.0":
        raise RpcError(INVALID_REQUEST, "A message must say `jsonrpc: 2.0`.")
    return message


def read_params(raw: Raw | UnsetType) -> Params:
    """Each parameter as bytes. Raises `RpcError` when it is not an object."""
    if raw is UNSET:
        return {}
    try:
        return _params.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        raise RpcError(INVALID_PARAMS, "params must be an object.") from None


def read_object(raw: Raw | None) -> Params:
    """Like `read_params`, but anything else than an object is an empty one."""
    if raw is None:
        return {}
    try:
        return _params.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return {}


def read_text(raw: Raw | None) -> str | None:
    """The string `raw` holds; None when it holds none."""
    if raw is None:
        return None
    try:
        return _text.decode(raw)
    except msgspec.MsgspecError:
        return None


def read_error(raw: Raw) -> RpcError:
    """What an upstream answered, as an error of ours with the same code, message and data."""
    try:
        body = _error.decode(raw)
    except msgspec.MsgspecError:
        return RpcError(INTERNAL_ERROR, "The server answered with an error that cannot be read.")
    return RpcError(body.code, body.message[:4000], None if body.data is UNSET else body.data)


def decode_or_none(value: Raw | None) -> Any:
    """The value; None for what cannot be read, and for nothing."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None


def as_object(value: Any) -> dict[str, Any]:
    """A decoded JSON object as one; anything else is an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A decoded JSON array as one; anything else is an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def raw(value: Any) -> Raw:
    """`value` as bytes to embed."""
    return Raw(encode(value))


def request_bytes(id_: Id, method: str, params: Params) -> bytes:
    return encode({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def notification_bytes(method: str, params: Params) -> bytes:
    return encode({"jsonrpc": "2.0", "method": method, "params": params})


def result_bytes(id_: Id, result: bytes | Raw) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + encode(id_) + b',"result":' + bytes(result) + b"}"


def error_bytes(id_: Id | None, error: RpcError) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + encode(id_) + b',"error":' + error.to_bytes() + b"}"


def is_input_required(result: bytes | Raw) -> bool:
    """Whether a result asks for more input. The search spares decoding nearly every result."""
    if b"input_required" not in bytes(result):
        return False
    return read_text(read_object(Raw(result)).get("resultType")) == "input_required"
