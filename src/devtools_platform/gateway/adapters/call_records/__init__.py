"""Tool calls in the state database, and which gateway process is at which of them."""

from devtools_platform.gateway.adapters.call_records.presence import Presence
from devtools_platform.gateway.adapters.call_records.records import SqlCallRecords

__all__ = ["Presence", "SqlCallRecords"]
