"""The six agents: their definitions as data, the loop that runs one, the orchestration of all."""
