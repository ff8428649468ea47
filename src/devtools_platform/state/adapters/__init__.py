"""What the state part runs on. Chosen by `app`."""
