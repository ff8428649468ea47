"""Stand-ins for the servers we call: real sockets, true wire shapes, keeping state and failing on demand."""
