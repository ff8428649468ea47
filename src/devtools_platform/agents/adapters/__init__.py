"""Where agents meet models and tools. Chosen by app only."""
