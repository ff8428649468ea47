"""The RAG service (:8007): finds the right code for an agent or a person, on Qdrant's engine."""
