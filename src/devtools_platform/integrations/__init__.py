"""Where the team talks (GitHub, Linear): webhooks in, tasks from them, and what tasks tell the outside."""
