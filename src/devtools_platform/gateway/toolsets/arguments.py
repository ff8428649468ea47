"""What each tool of the workspace can be given: one model per tool, its JSON Schema and its check in one."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import ToolFailed


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ListFiles(Arguments):
    glob: str = Field("**", description="Such as '*.py' (in any folder), 'src/**/*.ts' or 'docs/**'.")
    limit: int = Field(500, ge=1, le=5000)


class ReadFile(Arguments):
    path: str = Field(description="Relative to the top of the workspace.")
    start_line: int = Field(1, ge=1, description="First line to read, counted from 1.")
    end_line: int | None = Field(None, ge=1, description="Last line to read, included; the end if not given.")


class SearchText(Arguments):
    pattern: str = Field(min_length=1, description="POSIX extended regular expression, as for `grep -E`.")
    glob: str | None = Field(None, description="Only in files that match, such as '*.py' or 'src/**'.")
    limit: int = Field(100, ge=1, le=1000)


class EditFile(Arguments):
    path: str = Field(description="Relative to the top of the workspace.")
    old: str = Field(description="The exact text to replace, white space included. Must occur exactly once.")
    new: str = Field(description="The text to put in its place.")


class WriteFile(Arguments):
    path: str = Field(description="Relative to the top of the workspace. Missing folders are made.")
    content: str = Field(description="The whole content of the file.")


class DeleteFile(Arguments):
    path: str = Field(description="Relative to the top of the workspace.")


class ApplyPatch(Arguments):
    patch: str = Field(min_length=1, description="From `*** Begin Patch` to `*** End Patch`, or a unified diff.")


class RunCommand(Arguments):
    command: list[str] = Field(min_length=1, description='Program and arguments, such as ["python", "-V"]. No shell.')
    timeout_s: float | None = Field(None, gt=0, description="Ends the command after this many seconds.")


class RunTests(Arguments):
    paths: list[str] = Field(default_factory=list[str], description="Only these test files or folders; all if empty.")


class Scaffold(Arguments):
    kind: Literal["github-pipeline", "gitlab-pipeline", "container", "api-reference"]


class NoArguments(Arguments):
    pass


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """The JSON Schema without the titles pydantic adds: models read every word."""
    schema = arguments.model_json_schema()
    for part in (schema, *schema["properties"].values()):
        part.pop("title", None)
    return schema


def parse_arguments(arguments: type[Arguments], given: Mapping[str, Any]) -> Arguments:
    try:
        return arguments.model_validate(dict(given))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()]
        raise ToolFailed(f"The arguments do not fit: {'; '.join(wrong)}.", hint="See the tool's schema.") from None
