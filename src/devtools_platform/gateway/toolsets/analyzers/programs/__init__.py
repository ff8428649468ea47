"""Programs that run inside the sandbox, by path and with the standard library and the analyzers' packages only."""
