"""Where spans and model calls are kept. Chosen by app only."""
