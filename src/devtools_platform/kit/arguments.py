"""A tool's arguments as a model: its JSON Schema and its check in one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from devtools_platform.core.errors import BadInput


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


A = TypeVar("A", bound=Arguments)


def read_arguments(kind: type[A], arguments: Mapping[str, Any]) -> A:
    """Raises `BadInput` naming the first argument that does not fit."""
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "arguments"
        raise BadInput(f"{place}: {first['msg']}.", hint="See the tool's input schema.") from None
