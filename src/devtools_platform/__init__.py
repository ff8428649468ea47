"""Dev-Tools: an AI DevOps crew a small team can trust with its repository and its production."""

__version__ = "0.1.0"
