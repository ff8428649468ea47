"""What commands print: progress lines to standard error, results to standard output."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from devtools_platform.core.errors import BadInput, DevToolsError

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def program() -> str:
    """How this command was called, so that what we tell people to type works where they stand."""
    called = Path(sys.argv[0])
    return "dev-tools" if shutil.which("dev-tools") or called.name != "dev-tools" else str(called)


def progress(part: str, text: str) -> None:
    """One line of a long work: which part, and what it does."""
    err.print(Text.assemble((f"  {part:<10}", "cyan"), text))


def no_progress(part: str, text: str) -> None:
    """For `--json`: only the result is printed."""


def write_file(file: Path, text: str) -> None:
    """What a person asked to have in a file. Raises `BadInput` where it cannot be written."""
    try:
        file.write_text(text)
    except OSError as error:
        raise BadInput(
            f"{str(file)!r} cannot be written: {error.strerror}.", hint="Name a file in a folder that is there."
        ) from None


def fail(error: DevToolsError, *, as_json: bool) -> NoReturn:
    """End the process with the error as a person, or a program, reads it."""
    if as_json:
        print_json({"error": error.to_dict()})
    else:
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        err.print(Text.assemble(("next:  ", "bold"), error.hint))
    sys.exit(error.exit_code)
