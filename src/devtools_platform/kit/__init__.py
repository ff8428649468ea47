"""How any part is served and supervised: HTTP, database, processes, sandbox, git, telemetry. Below the parts."""
