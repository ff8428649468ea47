"""The routes of documents: store, list, read, forget."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from devtools_platform.context.library import MAX_DOCUMENTS, Library
from devtools_platform.context.types import Document, DocumentInfo, DocumentKind, IndexStatus


class NewDocument(BaseModel):
    """A document to store, or to put in the place of the one with its id."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, description="Reads as a path: docs/setup.md.")
    kind: DocumentKind = "document"
    title: str = Field(min_length=1)
    text: str = Field(min_length=1, description="Markdown.")
    source: Mapping[str, Any] = Field(default_factory=dict[str, Any], description="Where it comes from.")
    at: AwareDatetime | None = Field(default=None, description="When it was written; now, if not said.")

    def to_document(self) -> Document:
        return Document(self.id, self.kind, self.title, self.text, self.source, self.at or datetime.now(UTC))


class NewDocuments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    documents: list[NewDocument] = Field(min_length=1, max_length=MAX_DOCUMENTS)


def add_document_routes(app: APIRouter, library: Library) -> None:
    async def put_documents(name: str, new: NewDocuments) -> IndexStatus:
        return await library.put(name, [one.to_document() for one in new.documents])

    async def list_documents(name: str) -> list[DocumentInfo]:
        return await library.list(name)

    async def read_document(name: str, id_: str) -> Document:
        return await library.read(name, id_)

    async def forget_document(name: str, id_: str) -> None:
        await library.forget(name, id_)

    app.add_api_route("/collections/{name}/documents", put_documents, methods=["PUT"])
    app.add_api_route("/collections/{name}/documents", list_documents, methods=["GET"])
    app.add_api_route("/collections/{name}/documents/{id_:path}", read_document, methods=["GET"])
    app.add_api_route("/collections/{name}/documents/{id_:path}", forget_document, methods=["DELETE"], status_code=204)
