"""Spans, the cost ledger, budgets and the outbox of sinks in the state database."""

from devtools_platform.observability.adapters.sql.gauges import refresh_gauges
from devtools_platform.observability.adapters.sql.ledger import INTERRUPTED, Records, SqlLedger, SqlSpanStore
from devtools_platform.observability.adapters.sql.outbox import SqlOutbox
from devtools_platform.observability.adapters.sql.reports import add_up

__all__ = ["INTERRUPTED", "Records", "SqlLedger", "SqlOutbox", "SqlSpanStore", "add_up", "refresh_gauges"]
