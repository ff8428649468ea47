"""The state service (:8008): tasks, their events and results, durable on PostgreSQL."""
