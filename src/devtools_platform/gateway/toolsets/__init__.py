"""Tool servers of our own that the gateway offers."""
