"""DBOS as our durable engine: `control` from outside a worker, `engine` inside one."""
