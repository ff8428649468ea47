"""Judges what a change added with programs that do not guess, and decides by a policy file what blocks it.

Analyzers read the workspace from inside the sandbox: those written in Python with our own interpreter in isolated
mode (a `ruff.py` in the workspace must not be imported), none with the workspace's settings for it where they can be
told so. One that had something to look at and did not run is named with the reason: nothing here approves by saying
nothing. `catalogue` lists them, `run` runs them, `policy` decides, one module per kind of file knows the rest.
"""

from devtools_platform.gateway.toolsets.analyzers.config import ReviewConfig, parse_review_config
from devtools_platform.gateway.toolsets.analyzers.policy import Policy, load_policy
from devtools_platform.gateway.toolsets.analyzers.run import Review, analyze
from devtools_platform.gateway.toolsets.analyzers.types import Analysis

__all__ = ["Analysis", "Policy", "Review", "ReviewConfig", "analyze", "load_policy", "parse_review_config"]
