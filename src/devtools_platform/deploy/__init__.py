"""Releases and rollouts. Today: which release this process is; building and rolling out come with issue 10."""
