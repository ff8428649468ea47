"""Tool results between MCP's form, as bytes, and ours, as text and data."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw

from devtools_platform.core.tools import APPROVAL_REQUIRED, ToolResult
from devtools_platform.gateway.mcp.messages import (
    as_object,
    decode,
    raw,
)


def as_tool_result(result: Raw) -> ToolResult:
    """What a program keeps of a result. Images and the like are named, not kept."""
    try:
        body = msgspec.json.decode(result)
        parts = [_text_of(part) for part in body.get("content", [])]
        data = as_object(body.get("structuredContent"))
        return ToolResult("\n".join(parts), data, bool(body.get("isError")))
    except (msgspec.MsgspecError, AttributeError, TypeError, RecursionError):
        return ToolResult("The server's answer is no tool result.", is_error=True)


def _text_of(part: Mapping[str, Any]) -> str:
    if part.get("type") == "text":
        return str(part.get("text", ""))
    if part.get("type") == "resource" and "text" in part.get("resource", {}):
        return str(part["resource"]["text"])
    size = len(str(part.get("data") or part.get("resource", {}).get("blob") or ""))
    return f"[{part.get('type', 'unknown')} {part.get('mimeType', '')}: {size} characters, not shown as text]"


def wire_result(result: ToolResult) -> Raw:
    """A tool server's result as MCP has it."""
    return raw(
        {
            "content": [{"type": "text", "text": result.text}],
            "structuredContent": result.data,
            "isError": result.is_error,
            "resultType": "complete",
        }
    )


def outcome_of(result: ToolResult) -> str:
    if result.data.get("code") == APPROVAL_REQUIRED:
        return "held"
    return "error" if result.is_error else "ok"


def cut_text(result: ToolResult, cap: int) -> ToolResult:
    """A kept answer with its text cut, if it is too large for its rule. What is kept stays whole."""
    if len(result.text) <= cap:
        return result
    short: Any = decode(cut(wire_result(result), cap))
    return replace(result, text=short["content"][0]["text"], data={})


def cut(result: Raw, cap: int) -> Raw:
    """A result too large for its rule: its text cut in the middle, its data left out, and both said."""
    held = as_tool_result(result)
    half = max(0, cap // 2 - 200)
    left_out = len(held.text) - 2 * half
    text = f"{held.text[:half]}\n[{left_out} characters left out: a result here is at most {cap} bytes]\n"
    return raw(
        {
            "content": [{"type": "text", "text": text + (held.text[-half:] if half else "")}],
            "isError": held.is_error,
            "resultType": "complete",
        }
    )
