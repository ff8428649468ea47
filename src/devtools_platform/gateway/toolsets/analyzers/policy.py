"""The verdict on findings, by a file: the stack's rules, and what a repository adds to them."""

from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import Severity
from devtools_platform.gateway.toolsets.analyzers.types import AddedLines, Confidence, Place, Raw, place_of

Decision = Literal["block", "show", "drop"]

PACKAGE = "devtools_platform.gateway.toolsets.analyzers"

#: No repository can make these harmless.
UNDENIABLE = frozenset({"secrets"})


class PolicyRule(BaseModel):
    """Conditions, all of which must hold, and what then becomes of the finding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ("*",)
    severities: tuple[Severity, ...] = ()
    confidences: tuple[Confidence, ...] = ()
    places: tuple[Place, ...] = ()
    lines: Literal["added", "untouched"] | None = None
    decide: Decision

    def applies_to(self, source: str, raw: Raw, *, is_added: bool) -> bool:
        return (
            any(fnmatchcase(source, glob) for glob in self.sources)
            and any(fnmatchcase(raw.rule, glob) for glob in self.rules)
            and (not self.severities or raw.severity in self.severities)
            and (not self.confidences or raw.confidence in self.confidences)
            and (not self.places or place_of(raw.path) in self.places)
            and (self.lines is None or (self.lines == "added") == is_added)
        )


class Policy(BaseModel):
    """The rules in order; the first that applies decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[PolicyRule, ...] = Field(min_length=1)

    def decide(self, source: str, raw: Raw, added: AddedLines) -> Decision:
        is_added = raw.touches(added)
        for rule in self.rules:
            if rule.applies_to(source, raw, is_added=is_added):
                return rule.decide
        return "show"

    def with_repository(self, block: tuple[str, ...], show: tuple[str, ...]) -> "Policy":
        """The policy with what a repository says of single rules, each named `SOURCE:RULE` (globs)."""
        own = [_own(name, "block") for name in block]
        own += [_own(name, "show") for name in show if name.partition(":")[0] not in UNDENIABLE]
        undeniable = [PolicyRule(sources=tuple(UNDENIABLE), lines="added", decide="block")]
        return Policy(rules=(*undeniable, *own, *self.rules)) if own else self


def load_policy(path: Path | None = None) -> Policy:
    """The policy in `path`, or the one that comes with us. Raises `BadInput` saying what is wrong with it."""
    name = str(path) if path else "policy.yaml"
    try:
        text = path.read_text("utf-8") if path else resources.files(PACKAGE).joinpath(name).read_text("utf-8")
        return Policy.model_validate(yaml.safe_load(text))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"The review policy {name!r} cannot be read: {error}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(
            f"The review policy {name!r} is wrong at {where}: {first['msg']}.",
            hint="A rule has sources, rules, severities, confidences, places, lines, and decide: block, show or drop.",
        ) from None


def _own(name: str, decide: Decision) -> PolicyRule:
    source, _, rule = name.partition(":")
    return PolicyRule(sources=(source,), rules=(rule or "*",), lines="added", decide=decide)
