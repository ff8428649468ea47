"""Engines the context service can run on."""
