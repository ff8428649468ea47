"""What the context part keeps in the state database: documents, and those that are made from tasks."""
