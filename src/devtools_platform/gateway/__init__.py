"""The MCP gateway (:8000): one door from an agent to its tools, with identity, policy and a record of each call."""
