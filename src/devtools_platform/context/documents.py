"""Documents as files: what is indexed of one, and which ids it may have. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.types import Document
from devtools_platform.core.errors import BadInput

MAX_TEXT_CHARS = 400_000
MAX_TITLE_CHARS = 200
MAX_SOURCE_CHARS = 4_000
_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)
MAX_ID_CHARS = 200


def check_document(document: Document) -> None:
    """Raises `BadInput` naming the document and what is wrong with it."""
    if not _ID.fullmatch(document.id) or len(document.id) > MAX_ID_CHARS:
        raise BadInput(
            f"{document.id[:MAX_ID_CHARS]!r} is not a document's id.",
            hint="It reads as a path: letters, digits, `.`, `_`, `-` and `/`, at most 200 characters: docs/setup.md.",
        )
    content = render(document)
    if reason := find_skipped_path(document.id, len(content)):
        raise BadInput(f"{document.id!r} would not be indexed: {reason[1]}.", hint="Give it another id, or split it.")
    if len(document.text) > MAX_TEXT_CHARS or len(document.title) > MAX_TITLE_CHARS:
        raise BadInput(
            f"{document.id!r} has {len(document.text)} characters and a title of {len(document.title)}; "
            f"{MAX_TEXT_CHARS} and {MAX_TITLE_CHARS} are taken.",
            hint="Split it.",
        )
    if len(str(document.source)) > MAX_SOURCE_CHARS:
        raise BadInput(f"The source of {document.id!r} is longer than {MAX_SOURCE_CHARS} characters.")


def render(document: Document) -> bytes:
    """What is indexed and shown: the title, a line that says where it comes from, the text.

    A text that begins with a heading of its own keeps that one: the line stands in its first section.
    """
    facts = [document.kind, *_name_facts(document.source), f"{document.at:%Y-%m-%d}"]
    text = document.text.strip()
    heading = "# " + " ".join(document.title.split())
    if text.startswith("#"):
        heading, _, text = text.partition("\n")
    return f"{heading}\n\n({', '.join(facts)})\n\n{text.strip()}\n".encode(errors="replace")


def _name_facts(source: Mapping[str, Any]) -> list[str]:
    names = {"task_id": "task", "commit": "commit", "url": "from"}
    return [f"{name} {str(source[key])[:200]}" for key, name in names.items() if source.get(key)]
