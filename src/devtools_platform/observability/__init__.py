"""Traces and costs: what each model and tool call was, in which task, and what it cost."""
