"""The composition root: chooses adapters, wires the parts, runs them together."""
