"""The outside as it is today: its HTTP interfaces, and the tables that remember it. Chosen by app only."""
