"""What both ways of asking the gateway share."""

from typing import Any

import msgspec


class Failure(msgspec.Struct):
    """A JSON-RPC error."""

    code: int
    message: str
    data: Any = None
