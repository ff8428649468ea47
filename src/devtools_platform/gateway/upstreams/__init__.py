"""The servers behind the gateway: how each is reached, kept alive, and kept from harming the others."""
