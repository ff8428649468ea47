"""Spans to a receiver that speaks OTLP over HTTP: Langfuse, Phoenix, a collector. Protobuf, gzip, bounded."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import httpx2
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from devtools_platform import __version__
from devtools_platform.core.errors import BadInput
from devtools_platform.core.redact import redact_text
from devtools_platform.observability.forwarding import Rejected, SinkAway
from devtools_platform.observability.interfaces import SpanRow

INGESTION_VERSION = "4"
"""Langfuse's header; without it, data may be ten minutes late. Its server refuses a greater one."""
TIMEOUT_S = 10.0
TOO_LARGE_OR_WRONG = frozenset({400, 413, 422})
"""The batch will never be taken as it is. Everything else may pass: keys are mended, servers restarted."""

_KINDS = {
    "internal": Span.SPAN_KIND_INTERNAL,
    "server": Span.SPAN_KIND_SERVER,
    "client": Span.SPAN_KIND_CLIENT,
    "producer": Span.SPAN_KIND_PRODUCER,
    "consumer": Span.SPAN_KIND_CONSUMER,
}
_STATUS = {"ok": Status.STATUS_CODE_OK, "error": Status.STATUS_CODE_ERROR}
_RESOURCE = ("service.name", "service.version", "deployment.environment.name")


@dataclass(frozen=True)
class OtlpSink:
    """One receiver. `name` is its label in metrics and its key in the outbox."""

    name: str
    url: str
    headers: Mapping[str, str]

    async def send(self, http: httpx2.AsyncClient, rows: Sequence[SpanRow]) -> int:
        """Returns how many the receiver took. Raises `SinkAway` to try again, `Rejected` where that cannot help."""
        headers = {**self.headers, "Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        body = gzip.compress(encode(rows), compresslevel=6)
        try:
            response = await http.post(self.url, content=body, headers=headers, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise SinkAway(f"{type(error).__name__}: {error}") from None
        said = redact_text(response.text[:300])
        if response.status_code in TOO_LARGE_OR_WRONG:
            raise Rejected(f"HTTP {response.status_code}: {said}")
        if not response.is_success:
            raise SinkAway(f"HTTP {response.status_code}: {said}")
        return len(rows) - _count_rejected(response)


def langfuse_sink(base_url: str, public_key: str, secret_key: str) -> OtlpSink:
    """Langfuse's own ingestion endpoint."""
    return OtlpSink(
        "langfuse",
        f"{base_url.rstrip('/')}/api/public/otel/v1/traces",
        {
            "Authorization": basic_auth(public_key, secret_key),
            "x-langfuse-ingestion-version": INGESTION_VERSION,
            "x-langfuse-public-key": public_key,
            "x-langfuse-sdk-name": "dev-tools",
            "x-langfuse-sdk-version": __version__,
        },
    )


def otlp_sink(endpoint: str, headers: str) -> OtlpSink:
    """Any receiver, by OpenTelemetry's own settings. Raises `BadInput` for headers that are no list."""
    return OtlpSink("otlp", f"{endpoint.rstrip('/')}/v1/traces", _parse_headers(headers))


def basic_auth(public_key: str, secret_key: str) -> str:
    return "Basic " + base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()


def encode(rows: Sequence[SpanRow]) -> bytes:
    """An `ExportTraceServiceRequest`; spans of one origin share a resource."""
    request = ExportTraceServiceRequest()
    by_origin: dict[tuple[Any, ...], ScopeSpans] = {}
    for row in rows:
        origin = tuple(row.attributes.get(name) for name in _RESOURCE)
        if origin not in by_origin:
            named = {name: value for name, value in zip(_RESOURCE, origin, strict=True) if value is not None}
            group = request.resource_spans.add(resource=Resource(attributes=_key_values(named)))
            by_origin[origin] = group.scope_spans.add()
            by_origin[origin].scope.name = "devtools_platform"
            by_origin[origin].scope.version = __version__
        by_origin[origin].spans.append(_span(row))
    return request.SerializeToString()


def _span(row: SpanRow) -> Span:
    # A task's spans hang under a root that is derived from its id and was never a span: at a receiver they are roots.
    parent = None if row.parent_id in {None, row.trace_id[:16]} else row.parent_id
    return Span(
        trace_id=bytes.fromhex(row.trace_id),
        span_id=bytes.fromhex(row.span_id),
        parent_span_id=bytes.fromhex(parent) if parent else b"",
        name=row.name,
        kind=_KINDS.get(row.kind, Span.SPAN_KIND_INTERNAL),
        start_time_unix_nano=_nanoseconds(row.started_at),
        end_time_unix_nano=_nanoseconds(row.ended_at),
        attributes=_key_values(row.attributes),
        status=Status(
            code=_STATUS.get(row.status, Status.STATUS_CODE_UNSET),
            message=str(row.attributes.get("langfuse.observation.status_message", "")),
        ),
    )


def _key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items() if value is not None]


def _value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case list() if all(isinstance(item, str) for item in value):  # pyright: ignore[reportUnknownVariableType]
            return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))  # pyright: ignore[reportUnknownVariableType]
        case _:
            return AnyValue(string_value=json.dumps(value, ensure_ascii=False, default=str))


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000) * 1000


def _count_rejected(response: httpx2.Response) -> int:
    """By OTLP's partial success. Langfuse answers an empty object in JSON: all were taken."""
    if "protobuf" not in response.headers.get("content-type", ""):
        return 0
    try:
        return ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans
    except DecodeError:
        return 0


def _parse_headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, is_pair, value = item.partition("=")
        if not is_pair or not name.strip():
            raise BadInput(
                "OTEL_EXPORTER_OTLP_HEADERS is no list of name=value.",
                hint="Write it as `name=value,name=value`, values URL-encoded.",
            )
        headers[name.strip()] = unquote(value.strip())
    return headers
