"""Documents in the state database, so that its backup holds them too."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import sqlalchemy as sa

from devtools_platform.context.documents import render
from devtools_platform.context.git import TreeEntry
from devtools_platform.context.types import Document, DocumentInfo
from devtools_platform.context.worktree import make_blob_id
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.kit import schema
from devtools_platform.kit.database import in_thread, read_in_thread
from devtools_platform.kit.schema import storable

_TABLE = schema.documents


@dataclass(frozen=True)
class SqlDocuments:
    """`DocumentStore`."""

    database: sa.Engine

    async def list_collections(self) -> list[str]:
        query = sa.select(_TABLE.c.collection).distinct().order_by(_TABLE.c.collection)
        return await read_in_thread(self.database, lambda c: [str(name) for name in c.execute(query).scalars()])

    async def list_entries(self, collection: str) -> list[TreeEntry]:
        query = sa.select(_TABLE.c.id, _TABLE.c.blob, _TABLE.c.size).where(*_present(collection))
        rows = await read_in_thread(self.database, lambda c: c.execute(query).all())
        return [TreeEntry(row.id, row.blob, row.size) for row in rows]

    async def read(self, collection: str, id_: str) -> Document | None:
        query = sa.select(_TABLE).where(*_present(collection), _TABLE.c.id == id_)
        row = await read_in_thread(self.database, lambda c: c.execute(query).one_or_none())
        return None if row is None else Document(row.id, row.kind, row.title, row.text, row.source, row.at)

    async def list_infos(self, collection: str, ids: Sequence[str] | None = None) -> list[DocumentInfo]:
        names = ("id", "kind", "title", "source", "at", "size")
        query = sa.select(*(_TABLE.c[name] for name in names)).where(*_present(collection))
        if ids is not None:
            query = query.where(_TABLE.c.id.in_(ids))
        query = query.order_by(_TABLE.c.at.desc(), _TABLE.c.id)
        rows = await read_in_thread(self.database, lambda c: c.execute(query).all())
        return [DocumentInfo(row.id, row.kind, row.title, row.source, row.at, row.size) for row in rows]

    async def save(self, collection: str, documents: Sequence[Document]) -> None:
        await in_thread(self.database, lambda c: [save_document(c, collection, one) for one in documents])

    async def forget(self, collection: str, id_: str | None = None) -> int:
        where = [*_present(collection), *([] if id_ is None else [_TABLE.c.id == id_])]
        gone: dict[str, Any] = {
            "title": "",
            "text": "",
            "source": {},
            "blob": "",
            "size": 0,
            "forgotten_at": datetime.now(UTC),
        }
        return await in_thread(
            self.database, lambda c: c.execute(sa.update(_TABLE).where(*where).values(gone)).rowcount
        )


def save_document(
    connection: sa.Connection, collection: str, document: Document, *, task_id: str | None = None, version: int = 1
) -> None:
    """Insert or replace, secrets masked, in the caller's transaction."""
    clean = _clean(document)
    content = render(clean)
    row = {
        "kind": clean.kind,
        "title": clean.title,
        "text": clean.text,
        "source": clean.source,
        "blob": make_blob_id(content),
        "size": len(content),
        "task_id": task_id,
        "version": version,
        "at": clean.at,
        "forgotten_at": None,
    }
    same = (_TABLE.c.collection == collection, _TABLE.c.id == document.id)
    if not connection.execute(sa.update(_TABLE).where(*same).values(row)).rowcount:
        connection.execute(sa.insert(_TABLE).values({"collection": collection, "id": document.id, **row}))


def _clean(document: Document) -> Document:
    """As it can be stored: no secrets, nothing that PostgreSQL refuses."""
    title, text = storable(redact_text(document.title)), storable(redact_text(document.text))
    source = cast("dict[str, Any]", storable(redact(dict(document.source))))
    return Document(document.id, document.kind, title, text, source, document.at)


def _present(collection: str) -> list[sa.ColumnElement[bool]]:
    return [_TABLE.c.collection == collection, _TABLE.c.forgotten_at.is_(None)]
