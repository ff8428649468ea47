"""Settings and their sources. The only package that reads the environment; above it everyone is handed settings."""

from devtools_platform.config.check import Problem, find_problems
from devtools_platform.config.environment import program_environment, read_variables
from devtools_platform.config.explain import Explained, Value, explain, list_values
from devtools_platform.config.settings import Settings, load_settings

__all__ = [
    "Explained",
    "Problem",
    "Settings",
    "Value",
    "explain",
    "find_problems",
    "list_values",
    "load_settings",
    "program_environment",
    "read_variables",
]
