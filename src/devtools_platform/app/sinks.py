"""Where spans are sent beside our own store, as the settings say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devtools_platform.config import Settings

if TYPE_CHECKING:
    from devtools_platform.observability.adapters.otlp import OtlpSink


def build_sinks(settings: Settings) -> list["OtlpSink"]:
    """Those the settings name. Raises `BadInput` for headers that cannot be read."""
    sinks: list[OtlpSink] = []
    if not settings.langfuse_public_key and not settings.otlp_endpoint:
        return sinks  # and protobuf, with all of OTLP's messages, stays where it is
    from devtools_platform.observability.adapters.otlp import langfuse_sink, otlp_sink

    if settings.langfuse_public_key and settings.langfuse_secret_key:
        secret = settings.langfuse_secret_key.get_secret_value()
        sinks.append(langfuse_sink(settings.langfuse_base_url, settings.langfuse_public_key, secret))
    if settings.otlp_endpoint:
        headers = settings.otlp_headers.get_secret_value() if settings.otlp_headers else ""
        sinks.append(otlp_sink(settings.otlp_endpoint, headers))
    return sinks


def sink_names(settings: Settings) -> Sequence[str]:
    return [sink.name for sink in build_sinks(settings)]
