"""The model Dev-Tools can run with no account: what it is, where its bytes come from, how they are proved.

One pinned file, accepted from any source under one SHA-256 and from none without it. Running it is the
business of `llama_server`; choosing it, of `app`.
"""

from devtools_platform.agents.adapters.embedded_model.catalogue import CODER, EmbeddedModel
from devtools_platform.agents.adapters.embedded_model.fetch import fetch
from devtools_platform.agents.adapters.embedded_model.files import check_model_file, find_cached

__all__ = ["CODER", "EmbeddedModel", "check_model_file", "fetch", "find_cached"]
