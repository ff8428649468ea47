"""The tool servers the gateway brings itself. Each is one `ToolServer`; `app` decides which are offered."""
