"""Other receivers of spans: any that speaks OTLP over HTTP, and Langfuse, which can also be asked what it has."""

from devtools_platform.observability.adapters.otlp.langfuse import LangfuseReader
from devtools_platform.observability.adapters.otlp.sending import OtlpSink, langfuse_sink, otlp_sink

__all__ = ["LangfuseReader", "OtlpSink", "langfuse_sink", "otlp_sink"]
