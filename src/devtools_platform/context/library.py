"""Documents in the context service: stored first, then indexed; forgotten first, then taken out of the index.

So a process that is killed in between leaves the store true, and the next start brings the index after it.
"""

from collections.abc import Sequence
from pathlib import Path

from devtools_platform.context.documents import check_document
from devtools_platform.context.names import MEMORY
from devtools_platform.context.service import ContextService
from devtools_platform.context.types import Document, DocumentInfo, IndexStatus
from devtools_platform.core.errors import BadInput, Conflict, NotFound

MAX_DOCUMENTS = 200


class Library:
    """The documents of a context service that has a store for them."""

    def __init__(self, service: ContextService) -> None:
        self.service = service

    async def put(self, collection: str, documents: Sequence[Document]) -> IndexStatus:
        """Store or replace documents, all or none of them; they are searchable when this returns.

        Raises `BadInput`, and `Conflict` for a collection that holds a repository.
        """
        if not 0 < len(documents) <= MAX_DOCUMENTS:
            raise BadInput(f"1 to {MAX_DOCUMENTS} documents are taken at once, not {len(documents)}.")
        self._check_place(collection)
        for document in documents:
            check_document(document)
        await self.service.get_documents().save(collection, documents)
        return await self.refresh(collection)

    async def refresh(self, collection: str) -> IndexStatus:
        """Bring the index after what is stored."""
        return await self.service.index(collection, Path(), follow="documents")

    async def list(self, collection: str) -> list[DocumentInfo]:
        """The newest first. Raises `NotFound` for what is no collection of documents."""
        self._check_documents(collection)
        return await self.service.get_documents().list_infos(collection)

    async def read(self, collection: str, id_: str) -> Document:
        """Raises `NotFound`."""
        self._check_documents(collection)
        document = await self.service.get_documents().read(collection, id_)
        if document is None:
            raise _not_there(collection, id_)
        return document

    async def forget(self, collection: str, id_: str) -> None:
        """Remove a document's words for good, from the store and from the index. Raises `NotFound`."""
        self._check_documents(collection)
        if not await self.service.get_documents().forget(collection, id_):
            raise _not_there(collection, id_)
        await self.refresh(collection)

    def _check_place(self, collection: str) -> None:
        if collection.endswith(MEMORY):
            raise BadInput(
                f"{collection!r} is written by tasks alone.", hint="Store documents under a name without `.memory`."
            )
        manifest = self.service.manifests.load(collection)
        if manifest is not None and manifest.follows != "documents":
            raise Conflict(
                f"{collection!r} is the index of {str(manifest.repo)!r}.",
                hint="Give the documents a name of their own.",
            )

    def _check_documents(self, collection: str) -> None:
        manifest = self.service.manifests.load(collection)
        if manifest is None or manifest.follows != "documents":
            raise NotFound(
                f"There is no collection of documents {collection!r}.", hint="`dev-tools context status` lists all."
            )


def _not_there(collection: str, id_: str) -> NotFound:
    hint = f"`dev-tools context documents {collection}` lists what is there."
    return NotFound(f"No document {id_!r} in {collection!r}.", hint=hint)
