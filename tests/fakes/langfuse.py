"""Langfuse's ingestion and its list of observations, by its published contract and its server's rules.

It decodes what it is sent and refuses what the real one refuses: another path, a wrong key, an ingestion version it
does not know, another encoding than gzip, ids that are none. It can be down, slow, or refuse single spans.
What the server makes of a span (type, session, user, usage, cost) follows `ObservationTypeMapper` and
`OtelIngestionProcessor` of server 4.9.
"""

import base64
import gzip
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

INGESTION = "/api/public/otel/v1/traces"
OBSERVATIONS = "/api/public/v2/observations"
MAX_INGESTION_VERSION = 4
TYPES = {"span", "generation", "event", "embedding", "agent", "tool", "chain", "retriever", "guardrail", "evaluator"}
BY_OPERATION = {
    **dict.fromkeys(("chat", "completion", "text_completion", "generate_content"), "GENERATION"),
    "embeddings": "EMBEDDING",
    **dict.fromkeys(("invoke_agent", "create_agent"), "AGENT"),
    "execute_tool": "TOOL",
}


def type_of(attributes: Mapping[str, Any]) -> str:
    """What the server makes of a span, by its order of rules."""
    named = attributes.get("langfuse.observation.type")
    if named in TYPES:
        return named.upper()
    operation = attributes.get("gen_ai.operation.name")
    if operation in BY_OPERATION:
        return BY_OPERATION[operation]
    if attributes.get("gen_ai.tool.name"):
        return "TOOL"
    return "GENERATION" if attributes.get("gen_ai.request.model") else "SPAN"


@dataclass(frozen=True)
class Observation:
    """A span as the server stores it."""

    id: str
    trace_id: str
    parent_id: str | None
    name: str
    type: str
    session_id: str | None
    user_id: str | None
    environment: str
    release: str | None
    model: str | None
    usage: dict[str, int]
    cost: float | None
    attributes: dict[str, Any]


@dataclass
class FakeLangfuse:
    """Use as a context manager; `base_url` is where it listens."""

    public_key: str = "pk-lf-test"
    secret_key: str = "sk-lf-00000000-0000-0000-0000-000000000000"
    observations: dict[str, Observation] = field(default_factory=dict[str, Observation])
    bodies: list[bytes] = field(default_factory=list[bytes])
    """As they came in, unpacked."""
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Decoded ones, in the JSON form of OTLP."""
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    refused: int = 0
    status: int | None = None
    """Answer every request with this instead."""
    delay_s: float = 0.0
    poison: str | None = None
    """Refuse a batch that holds a span of this name."""
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of_session(self, session_id: str) -> list[Observation]:
        return [o for o in self.observations.values() if o.session_id == session_id]

    def ingest(self, headers: Mapping[str, str], raw: bytes) -> tuple[int, Any]:
        """The status and the body of the answer."""
        if self.status is not None:
            return self.status, {"message": "as the test wants it"}
        if (refusal := self._refuse(headers)) is not None:
            self.refused += 1
            return refusal
        try:
            body = gzip.decompress(raw)
            request = ExportTraceServiceRequest.FromString(body)
        except (OSError, DecodeError) as error:
            return 400, {"message": f"Cannot be decoded: {error}"}
        spans = [span for r in request.resource_spans for s in r.scope_spans for span in s.spans]
        if any(len(span.trace_id) != 16 or len(span.span_id) != 8 for span in spans):
            return 400, {"message": "Invalid trace or span id"}
        if self.poison is not None and any(span.name == self.poison for span in spans):
            return 400, {"message": "Invalid span"}
        self.bodies.append(body)
        self.headers.append(dict(headers))
        self.requests.append(MessageToDict(request))
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    self._store(span, resource)
        return 200, {}

    def _refuse(self, headers: Mapping[str, str]) -> tuple[int, Any] | None:
        expected = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        if headers.get("authorization") != f"Basic {expected}":
            return 401, {"message": "Invalid credentials. Confirm that you've configured the correct host."}
        if int(headers.get("x-langfuse-ingestion-version", "0")) > MAX_INGESTION_VERSION:
            return 400, {"message": "Unsupported ingestion version"}
        if headers.get("content-type") != "application/x-protobuf":
            return 400, {"message": "Unsupported content type"}
        if headers.get("content-encoding") != "gzip":
            return 400, {"message": "Unsupported content encoding"}
        return None

    def _store(self, span: Any, resource: Mapping[str, Any]) -> None:
        attributes = _plain(span.attributes)

        def first(*names: str) -> Any:
            return next((attributes[name] for name in names if name in attributes), None)

        usage = json.loads(attributes.get("langfuse.observation.usage_details", "{}"))
        cost = json.loads(attributes.get("langfuse.observation.cost_details", "null"))
        environment = first("langfuse.environment", "deployment.environment.name")
        stored = Observation(
            id=span.span_id.hex(),
            trace_id=span.trace_id.hex(),
            parent_id=span.parent_span_id.hex() or None,
            name=attributes.get("gen_ai.tool.name") or span.name,
            type=type_of(attributes),
            session_id=first("langfuse.session.id", "session.id", "gen_ai.conversation.id"),
            user_id=first("langfuse.user.id", "user.id"),
            environment=environment or resource.get("deployment.environment.name") or "default",
            release=attributes.get("langfuse.release"),
            model=first("langfuse.observation.model.name", "gen_ai.response.model", "gen_ai.request.model"),
            usage=usage,
            cost=None if cost is None else cost["total"],
            attributes=attributes,
        )
        self.observations[stored.id] = stored

    def list_observations(self, headers: Mapping[str, str], query: Mapping[str, list[str]]) -> tuple[int, Any]:
        expected = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        if headers.get("authorization") != f"Basic {expected}":
            return 401, {"message": "Invalid credentials."}
        traces = query.get("traceId")
        found = [o for o in self.observations.values() if traces is None or o.trace_id in traces]
        start = int(query.get("cursor", ["0"])[0])
        limit = int(query.get("limit", ["50"])[0])
        page = found[start : start + limit]
        meta = {"cursor": str(start + limit)} if start + limit < len(found) else {}
        data = [
            {
                "id": o.id, "traceId": o.trace_id, "type": o.type, "name": o.name, "sessionId": o.session_id,
                "userId": o.user_id, "environment": o.environment, "usageDetails": o.usage, "totalCost": o.cost,
            }
            for o in page
        ]  # fmt: skip
        return 200, {"data": data, "meta": meta}


def _plain(attributes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in attributes:
        kind = item.value.WhichOneof("value")
        value = getattr(item.value, kind) if kind else None
        values[item.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return values


def _handler(fake: FakeLangfuse) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", "0")))
            time.sleep(fake.delay_s)
            self._answer(*(fake.ingest(self._headers(), raw) if self.path == INGESTION else (404, {})))

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            is_known = parts.path == OBSERVATIONS
            answer = fake.list_observations(self._headers(), parse_qs(parts.query)) if is_known else (404, {})
            self._answer(*answer)

        def _headers(self) -> dict[str, str]:
            return {name.lower(): value for name, value in self.headers.items()}

        def _answer(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the sender had no more patience

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
