"""Signing in at MCP servers with OAuth 2.1: found out, done once by a person, renewed in the background."""
