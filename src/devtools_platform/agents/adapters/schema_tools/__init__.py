"""Tools for models that cannot call tools: one JSON schema per turn, of everything the model may do next.

Small models write tool calls as prose, and their servers do not enforce `tool_choice`; a JSON schema they do
enforce. So `SchemaToolModel` wraps any model that honours `response_format`: tools go out as a union of
objects, earlier calls as plain chat, and the answer comes back as ordinary tool calls. Agents above see no
difference.
"""

from devtools_platform.agents.adapters.schema_tools.branches import Enums
from devtools_platform.agents.adapters.schema_tools.model import SchemaToolModel

__all__ = ["Enums", "SchemaToolModel"]
