"""What a tool says of itself is input to a model: pinned when a person approves it, and compared ever after.

`mcp.lock` holds, for each server, how it is started and a hash of every tool's whole definition. It is meant to be
reviewed in git. A tool that is not in it, or no longer as it was, is in quarantine: not listed, not called.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.mcp.messages import Params, as_list, as_object
from devtools_platform.gateway.upstreams.types import ServerSpec

MAX_DEFINITION_BYTES = 64_000
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ORDERS = {
    "tells the model to ignore something": (
        r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:previous|prior|above|earlier|all|other|system)\b"
    ),
    "tells the model to keep something from people": (
        r"\b(?:do not|don't|never|without)\b.{0,30}\b(?:tell|mention|inform|reveal|show|notify|notifying|telling)\b"
        r".{0,30}\b(?:user|human|person|anyone|them)\b"
    ),
    "orders the model to act before or instead of other tools": (
        r"\b(?:before|instead of|after)\b.{0,25}\b(?:using|calling|invoking|running)\b"
        r".{0,25}\b(?:this|any|other|every|all)\b.{0,20}\btools?\b"
    ),
    "speaks in tags to the model": r"<\s*/?\s*(?:important|system|secret|instructions?|assistant|hidden)\b",
    "names files with secrets": (
        r"(?:~|\$HOME|/root|/home/\w+)?/?\."
        r"(?:ssh|aws|netrc|npmrc|pypirc|env\b|kube/config|docker/config|cursor/mcp)|id_(?:rsa|ed25519)\b"
    ),
    "wants data sent somewhere": (
        r"\b(?:send|post|forward|upload|exfiltrate|transmit|bcc)\b.{0,60}\b"
        r"(?:https?://|@[a-z0-9.-]+\.[a-z]{2,}|password|credential|token|secret|conversation|system prompt)"
    ),
    "gives the model an identity or rules": r"\b(?:you are now|you must (?:always|never)|system prompt|act as)\b",
}
_PATTERNS = {what: re.compile(pattern, re.IGNORECASE | re.DOTALL) for what, pattern in _ORDERS.items()}
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:passw(?:or)?d|passphrase|secret|api_?key|access_?key|private_?key|credentials?|bearer|auth_?token|access_?token)(?:$|[_.-])",
    re.IGNORECASE,
)
_LONG_BASE64 = re.compile(r"[A-Za-z0-9+/=]{200,}")


@dataclass(frozen=True)
class Finding:
    """Something in a definition that a person should see before they approve it."""

    where: str
    what: str


def digest(definition: Params) -> str:
    """A hash of everything a tool says, independent of the order it says it in."""
    value = {key: msgspec.json.decode(part) for key, part in definition.items()}
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def scan(definition: Params) -> list[Finding]:
    """What looks hidden, or like orders to the model, anywhere in a definition."""
    found: list[Finding] = []
    if sum(len(bytes(part)) for part in definition.values()) > MAX_DEFINITION_BYTES:
        found.append(Finding("definition", f"is larger than {MAX_DEFINITION_BYTES} bytes"))
    for where, text in _texts("", {key: msgspec.json.decode(part) for key, part in definition.items()}):
        found += [Finding(where, what) for what in _findings(text)]
    schema = msgspec.json.decode(definition.get("inputSchema", b"{}"))
    for name in as_object(as_object(schema).get("properties")):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
        if _SECRET_NAME.search(snake):
            found.append(Finding(f"inputSchema.{name}", "asks for a secret as an argument"))
    return list(dict.fromkeys(found))


def _findings(text: str) -> list[str]:
    found: list[str] = []
    if hidden := _HIDDEN.search(text):
        name = unicodedata.name(hidden.group(), f"U+{ord(hidden.group()):04X}")
        found.append(f"holds hidden characters ({name})")
    plain = unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
    found += [what for what, pattern in _PATTERNS.items() if pattern.search(plain)]
    if _LONG_BASE64.search(plain):
        found.append("holds a long encoded text")
    return found


def _texts(where: str, value: Any) -> list[tuple[str, str]]:
    """Every text in a definition, keys of its schema among them, with its place."""
    if isinstance(value, str):
        return [(where, value)]
    found: list[tuple[str, str]] = []
    for key, item in as_object(value).items():
        found.append((f"{where} key".lstrip(), key))
        found += _texts(f"{where}.{key}".lstrip("."), item)
    for item in as_list(value):
        found += _texts(where, item)
    return found


def fingerprint(spec: ServerSpec) -> dict[str, Any]:
    """How a server is reached, as the lock pins it."""
    kinds = ("command", "url", "openapi", "base_url")
    return {kind: value for kind, value in spec.model_dump(mode="json").items() if kind in kinds and value is not None}


@dataclass
class ToolLock:
    """The file `mcp.lock`."""

    file: Path
    servers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def load(cls, file: Path) -> "ToolLock":
        """Raises `BadInput` when it is there and cannot be read: a broken lock must not open everything."""
        if not file.exists():
            return cls(file)
        try:
            content = json.loads(file.read_text())
            servers = content["servers"]
            assert isinstance(servers, dict)  # noqa: S101 - turned into BadInput below
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise BadInput(
                f"The lock {str(file)!r} cannot be read: {error}.",
                hint="Restore it from git, or delete it to approve anew.",
            ) from None
        return cls(file, servers)  # pyright: ignore[reportUnknownArgumentType]

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(self.file.name + ".partial")
        partial.write_text(json.dumps({"version": 1, "servers": self.servers}, indent=2, sort_keys=True) + "\n")
        partial.replace(self.file)

    def verdict(self, server: str, spec: ServerSpec, tool: str, hash_: str) -> str | None:
        """Why a tool is in quarantine; None when it is as it was approved."""
        pinned = self.servers.get(server)
        if pinned is None:
            return "The server has not been approved yet."
        if pinned.get("reached_by") != fingerprint(spec):
            return "The server is started or reached in another way than when it was approved."
        known = pinned.get("tools", {}).get(tool)
        if known is None:
            return "The tool is new since the server was approved."
        return None if known == hash_ else "The tool's description or schema has changed since it was approved."

    def approve(self, server: str, spec: ServerSpec, release: str, tools: Mapping[str, str]) -> None:
        """Pin a server and these of its tools; the others it had stay pinned as they were."""
        kept = self.servers.get(server, {}).get("tools", {})
        self.servers[server] = {
            "reached_by": fingerprint(spec),
            "release": release,
            "tools": {**kept, **dict(tools)},
        }
        self.save()


@dataclass(frozen=True)
class Quarantined:
    """A tool that is neither listed nor called, and why."""

    server: str
    tool: str
    reason: str
    digest: str
    description: str
    findings: Sequence[Finding] = ()
