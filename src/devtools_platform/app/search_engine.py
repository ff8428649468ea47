"""What search runs on: the engine that keeps chunks and the embedder that gives vectors, as the settings say.

An engine holds vectors of one model: another model has a place of its own, and is filled from the repositories.
"""

import asyncio
import hashlib
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import sqlalchemy as sa

from devtools_platform.app.embedder import Tell, choose_embedder
from devtools_platform.config import Settings
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.minilm import MiniLm
from devtools_platform.context.adapters.qdrant_server import COLLECTION, QdrantEngine
from devtools_platform.context.adapters.sql.documents import SqlDocuments
from devtools_platform.context.interfaces import ChunkEngine, Embedder, EngineAway
from devtools_platform.context.remotes import Remotes
from devtools_platform.context.service import ContextService

RETIRED = ("edge-384",)
"""Folders of embedded indexes whose vectors no release makes any more: of the model before it was tuned on code."""


def choose_engine(settings: Settings, folder: Path, embedder: Embedder | None, tell: Tell) -> ChunkEngine:
    size = embedder.size if embedder else MiniLm.size
    mark = f"-{_mark(embedder.id if embedder else MiniLm().id)}"
    if settings.qdrant_url is None:
        return EdgeEngine(folder / f"edge{mark}-{size}", vector_size=size)
    key = settings.qdrant_api_key
    tell("context", f"the Qdrant server at {settings.qdrant_url}")
    secret = key.get_secret_value() if key else None
    return QdrantEngine.connect(settings.qdrant_url, secret, vector_size=size, collection=COLLECTION + mark)


async def open_service(
    settings: Settings, folder: Path, store: sa.Engine, tell: Tell, cleanup: AsyncExitStack
) -> ContextService:
    """The context service on what `folder` and the engine hold, closed by `cleanup`.

    A server that is away is told and waited for: agents work without it. Raises `Unavailable` for one that refuses us.
    """
    embedder = choose_embedder(settings, tell)
    index = choose_engine(settings, folder, embedder, tell)
    cleanup.push_async_callback(index.aclose)
    try:
        await index.count()  # starts the engine's process, or meets the server, now: not in the middle of a task
    except EngineAway as error:
        tell("context", f"no search until the index answers: {error}")
    await asyncio.to_thread(_remove_retired, folder)
    service = ContextService(index, folder / "manifests", embedder, SqlDocuments(store))
    cleanup.push_async_callback(service.aclose)
    return service


def _mark(model: str) -> str:
    return hashlib.sha256(model.encode()).hexdigest()[:8]


def _remove_retired(folder: Path) -> None:
    for name in RETIRED:
        shutil.rmtree(folder / name, ignore_errors=True)


def follow_remotes(settings: Settings, service: ContextService, folder: Path) -> Remotes:
    """Raises `BadInput` for a setting that names no repository."""
    urls = [url.strip() for url in settings.context_remotes.split(",") if url.strip()]
    return Remotes(service, folder / "remotes", urls, settings.context_poll_s)
