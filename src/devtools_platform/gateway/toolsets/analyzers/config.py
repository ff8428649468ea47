"""What a repository's `dev-tools.toml` says about its review. Read from the commit the task started from."""

import tomllib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import ToolFailed

CONFIG_FILE = "dev-tools.toml"
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_Rule = Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+$", max_length=200)]


class OwnAnalyzer(BaseModel):
    """An analyzer the repository brings: run in the sandbox, with the project's interpreter first on the path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    command: tuple[str, ...] = Field(min_length=1)
    files: tuple[str, ...] = ("*",)
    """Globs; it runs when the change touches one of them, and is given those files when `command` holds `{files}`."""
    report: Literal["sarif", "exit"] = "exit"
    """`sarif`: it prints SARIF. `exit`: an exit code other than 0 is one finding with what it printed."""


class _Review(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    block: tuple[_Rule, ...] = ()
    show: tuple[_Rule, ...] = ()
    analyzers: tuple[OwnAnalyzer, ...] = Field(default=(), max_length=10)


@dataclass(frozen=True)
class ReviewConfig:
    """`[review]` of a `dev-tools.toml`: rules it judges otherwise, and analyzers of its own."""

    block: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    analyzers: tuple[OwnAnalyzer, ...] = ()


def parse_review_config(text: str | None) -> ReviewConfig:
    """Raises `ToolFailed` naming what is wrong."""
    try:
        section = tomllib.loads(text or "").get("review", {})
    except tomllib.TOMLDecodeError as error:
        raise ToolFailed(f"{CONFIG_FILE} is not valid TOML: {error}.") from None
    try:
        review = _Review.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("review", *first["loc"])))
        raise ToolFailed(f"{CONFIG_FILE}: {where}: {first['msg']}.") from None
    return ReviewConfig(review.block, review.show, review.analyzers)
