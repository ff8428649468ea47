"""The `dev-tools` command: thin; it talks to a running stack or starts one."""
