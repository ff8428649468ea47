"""Which of a process's metrics a service shows. A stack's services share one process and one registry.

Each shows what is its own, so that a sum over all targets counts everything once. A worker, which has no service,
shows all of its own on a port for that.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric, disable_created_metrics, generate_latest, start_http_server
from prometheus_client.registry import REGISTRY, Collector

from devtools_platform.core.errors import Unavailable

disable_created_metrics()  # a second series for each counter, which nobody reads

HTTP = "devtools_http_"
OWNERS = {
    "devtools_tool_": "gateway",
    "devtools_mcp_": "gateway",
    "devtools_oidc_": "gateway",
    "devtools_gateway_": "gateway",
    "devtools_context_": "context",
}
"""By the beginning of the name; what stands nowhere is the state service's."""


def render_metrics(service: str) -> bytes:
    """The text that `service` answers with: its own, its own requests, and the process's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Of(service))
    return generate_latest(registry)


def serve_metrics(host: str, port: int) -> Callable[[], None]:
    """All metrics of this process over HTTP; returns what stops it. Raises `Unavailable` when the port is taken."""
    try:
        server, thread = start_http_server(port, addr=host)
    except OSError as error:
        raise Unavailable(
            f"The metrics cannot be offered on {host}:{port}: {error.strerror}.",
            hint="Choose another port with DEV_TOOLS_WORKER_METRICS_PORT.",
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Of(Collector):
    def __init__(self, service: str) -> None:
        self.service = service

    def collect(self) -> Iterable[Metric]:
        for metric in REGISTRY.collect():
            if not metric.name.startswith("devtools_"):
                yield metric
            elif metric.name.startswith(HTTP):
                yield _only_of(metric, self.service)
            elif _owner(metric.name) == self.service:
                yield metric


def _owner(name: str) -> str:
    return next((owner for start, owner in OWNERS.items() if name.startswith(start)), "state")


def _only_of(metric: Metric, service: str) -> Metric:
    kept = Metric(metric.name, metric.documentation, metric.type)
    kept.samples = [sample for sample in metric.samples if sample.labels.get("service") == service]
    return kept
