"""Where the console keeps what is its own. Chosen by app only."""
