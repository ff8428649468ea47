"""Where state is kept and work made durable. Chosen by app only."""
