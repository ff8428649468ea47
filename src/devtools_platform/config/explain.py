"""Each setting as a person asks about it: its variable, its value, where that came from, what it means."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_core import to_json

from devtools_platform.config.settings import Settings, is_secret, secret_file_of, variables_of


@dataclass(frozen=True)
class Explained:
    """One setting. `value` is None when nothing is set; a secret's is `***`."""

    variable: str
    value: str | None
    is_secret: bool
    source: str
    """`default`, `flag`, or the environment variable it was read from."""
    meaning: str


def explain(settings: Settings) -> list[Explained]:
    """All of them, in the order they are declared."""
    return [_explain(settings, name) for name in Settings.model_fields]


@dataclass(frozen=True)
class Value:
    """A setting as somebody would set it again, secrets in the clear: for backups, never for showing."""

    variable: str
    value: str
    path: Path | None
    """What it names, where it names a file or a folder."""


def list_values(settings: Settings, *, without: Collection[str] = ()) -> dict[str, Value]:
    """Every setting that differs from its default, by its name in `Settings`."""
    found: dict[str, Value] = {}
    for name in sorted(settings.model_fields_set - set(without)):
        value: Any = getattr(settings, name)
        if value is None:
            continue
        variable = variables_of(name)[0]
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        text = plain if isinstance(plain, str) else to_json(plain).decode() if _is_json(plain) else str(plain)
        found[name] = Value(variable, text, value if isinstance(value, Path) else None)
    return found


def _is_json(value: object) -> bool:
    return isinstance(value, (Mapping, tuple, bool))


def _explain(settings: Settings, name: str) -> Explained:
    field = Settings.model_fields[name]
    value: Any = getattr(settings, name)
    names = variables_of(name)
    from_environment = next((variable for variable in names if variable in os.environ), secret_file_of(name))
    is_default = name not in settings.model_fields_set
    source = "default" if is_default else from_environment or "flag"
    return Explained(names[0], _shown(value), is_secret(name), source, " ".join((field.description or "").split()))


def _shown(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value).lower() if isinstance(value, bool) else str(value)
