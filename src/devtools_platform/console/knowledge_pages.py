"""The knowledge pages: which repositories are indexed, how fresh that is, and a search that says why it found what."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.pages import Door, Pages, get, name_of, post, read_form
from devtools_platform.console.types import Found
from devtools_platform.core.errors import BadInput, DevToolsError

LIMIT = 10


class KnowledgePages(Pages):
    def doors(self) -> Sequence[Door]:
        return (get("/knowledge", self.knowledge), post("/knowledge", self.index))

    async def knowledge(self, request: Request, collection: str = "", q: str = "") -> Response:
        collections = await self.stack.knowledge.collections()
        chosen = collection or (collections[0].name if collections else "")
        found: Sequence[Found] | None = None
        error: DevToolsError | None = None
        if q.strip():
            try:
                found = await self.stack.knowledge.search(chosen, q.strip(), LIMIT)
            except DevToolsError as problem:
                error = problem
        return await self.show(
            request,
            "knowledge.html",
            status=error.status if error else 200,
            collections=collections,
            chosen=chosen,
            query=q,
            found=found,
            error=error,
        )

    async def index(self, request: Request) -> Response:
        form = await read_form(request)
        repo = form.get("repo", "").strip()
        if not PurePosixPath(repo).is_absolute():
            raise BadInput(
                f"The repository is {repo!r}, expected an absolute path on the machine the stack runs on.",
                hint="`git rev-parse --show-toplevel` prints it.",
            )
        await self.stack.knowledge.index(repo, name_of(request))
        return RedirectResponse("/knowledge", status_code=303)
