"""Where the gateway keeps its records. Chosen by app only."""
