"""Engines behind the agents: models that run here, and what carries the small ones."""
