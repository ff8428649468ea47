"""The gateway's `/mcp`: both eras of the protocol, as raw ASGI."""
