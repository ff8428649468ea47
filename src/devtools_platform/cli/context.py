"""`dev-tools context`: index a repository, find in it, see how far the index is, measure it on its own history."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from devtools_platform.app.context_client import ContextClient, part
from devtools_platform.app.home import Home
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, no_progress, out, print_json, program, progress
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.context.names import name_collection, name_memory
from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Search in repositories and in what the team knows.")

Repo = Annotated[Path, typer.Option("--repo", help="The repository to look in.")]
Collection = Annotated[str | None, typer.Option("--collection", help="Look in this collection instead.")]
Paused = Annotated[str, typer.Argument(help="A collection, as `status` names it.")]
Limit = Annotated[int, typer.Option(min=1, max=50, help="Most results to show.")]
TELL_EVERY_S = 1.0


def _send(data_dir: Path | None, method: str, path: str, **more: Any) -> Any:
    return asyncio.run(_client(data_dir).send(method, path, **more))


def _client(data_dir: Path | None) -> ContextClient:
    return ContextClient.of(Home.of(stack_settings(data_dir)))


def _path(repo: Path, collection: str | None, what: str = "") -> str:
    return f"/collections/{part(collection or name_collection(repo))}{what}"


@app.command("index")
def index(
    repo: Annotated[Path, typer.Argument(help="The top folder of a git repository.")] = Path(),
    files: Annotated[bool, typer.Option("--files", help="The files on disk instead of HEAD.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow what is saved, from now on.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a repository searchable, or bring its index up to date; only what changed is read."""
    follow = "files" if files else "commit"
    told = _teller("index", "files", no_progress if as_json else progress)
    work = _client(data_dir).index(str(repo.absolute()), follow=follow, watch=watch, told=told)
    _show_status(asyncio.run(work), as_json=as_json)


def _teller(what: str, unit: str, tell: Callable[[str, str], None]) -> Callable[[int | None, int | None], None]:
    """Tells of progress, at most once a second, and of the end."""
    last = 0.0

    def told(done: int | None, total: int | None) -> None:
        nonlocal last
        if done is not None and total and (done == total or time.monotonic() - last > TELL_EVERY_S):
            last = time.monotonic()
            tell(what, f"{done} of {total} {unit}")

    return told


@app.command("search")
def search(
    query: Annotated[str, typer.Argument(help="A question, key words, or the name of a function.")],
    repo: Repo = Path(),
    collection: Collection = None,
    path: Annotated[str | None, typer.Option(help="Only this file, folder, or pattern such as src/**/*.py.")] = None,
    limit: Limit = 5,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="About how much text to show.")] = 2000,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The functions, classes and sections that fit best, best first."""
    wanted = {"q": query, "limit": limit, "token_budget": tokens, **({"path": path} if path else {})}
    _show_hits(_send(data_dir, "GET", _path(repo, collection, "/search"), params=wanted), as_json=as_json)


@app.command("symbol")
def symbol(
    name: Annotated[str, typer.Argument(help="A function, method or class: total, or Cart.total.")],
    repo: Repo = Path(),
    collection: Collection = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Where a name is defined."""
    _show_hits(_send(data_dir, "GET", _path(repo, collection, "/symbol"), params={"q": name}), as_json=as_json)


@app.command("status")
def status(
    collection: Annotated[str | None, typer.Argument(help="One collection; all of them without it.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What is indexed, how far, and what was left out and why."""
    if collection is not None:
        _show_status(_send(data_dir, "GET", _path(Path(), collection)), as_json=as_json, with_skipped=True)
        return
    names = _send(data_dir, "GET", "/collections")
    found = [_send(data_dir, "GET", _path(Path(), name)) for name in names]
    if as_json:
        print_json(found)
    elif not found:
        out.print(f"Nothing is indexed. Run `{program()} context index REPO`.")
    for one in [] if as_json else found:
        _show_status(one, as_json=False)


@app.command("pause")
def pause(collection: Paused, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Stop indexing and embedding a collection, until `resume`; what is there is searched all along."""
    _show_status(_send(data_dir, "POST", _path(Path(), collection, "/pause")), as_json=as_json)


@app.command("resume")
def resume(collection: Paused, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Go on where `pause` stopped, in the background."""
    _show_status(_send(data_dir, "POST", _path(Path(), collection, "/resume")), as_json=as_json)


@app.command("add")
def add(
    collection: Annotated[str, typer.Argument(help="Where to: a name of your own, such as docs.")],
    files: Annotated[list[Path], typer.Argument(help="Markdown or text files.")],
    kind: Annotated[str, typer.Option(help="document or ticket.")] = "document",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Store files as documents, each under its path as given; what was there under it is replaced."""
    body = {"documents": [_read_document(file, kind) for file in files]}
    _show_status(_send(data_dir, "PUT", _path(Path(), collection, "/documents"), json=body), as_json=as_json)


def _read_document(file: Path, kind: str) -> dict[str, Any]:
    try:
        text = file.read_text(errors="replace")
        at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error.strerror}.", hint="Give files, not folders.") from None
    first = next((line.strip("# ").strip() for line in text.splitlines() if line.strip("# ").strip()), file.name)
    id_ = file.name if file.is_absolute() else file.as_posix()
    source = {"file": str(file.absolute())}
    return {"id": id_, "kind": kind, "title": first[:200], "text": text, "source": source, "at": at.isoformat()}


@app.command("documents")
def documents(
    collection: Annotated[str | None, typer.Argument(help="Without it: what the team knows of --repo.")] = None,
    repo: Repo = Path(),
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Documents of a collection, the newest first: stored ones, or what earlier tasks in a repository left behind."""
    name = collection or name_memory(name_collection(repo))
    found = _send(data_dir, "GET", _path(Path(), name, "/documents"))
    if as_json:
        print_json(found)
        return
    out.print(f"{name}: {len(found)} documents", markup=False)
    for one in found:
        out.print(Text.assemble((one["id"], "bold cyan"), f"  {one['kind']} of {one['at'][:10]}: {one['title']}"))


@app.command("forget")
def forget(
    collection: Annotated[str, typer.Argument(help="A collection, as `status` names it.")],
    document: Annotated[str | None, typer.Argument(help="Only this document of it, as `documents` names it.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Forget a document or a whole collection, for good; a repository itself is not touched."""
    what = "" if document is None else f"/documents/{quote(document)}"
    _send(data_dir, "DELETE", _path(Path(), collection, what))
    if as_json:
        print_json({"forgotten": document or collection})
    else:
        err.print(f"  {document or collection} is forgotten", markup=False)


@app.command("snapshot")
def snapshot(
    file: Annotated[Path, typer.Argument(help="Where to write it; an older snapshot there is replaced.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All indexes of repositories with their vectors into a file, while searches are answered. Documents are in
    `dev-tools backup`."""
    saved = _send(data_dir, "POST", "/snapshots", json={"file": str(file.absolute())})
    _show_saved(saved, "written", as_json=as_json)


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `context snapshot` has written.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a snapshot in the place of all that is indexed. Searches are answered from before until it is there."""
    saved = _send(data_dir, "POST", "/snapshots/restore", json={"file": str(file.absolute())})
    _show_saved(saved, "restored", as_json=as_json)


def _show_saved(saved: dict[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(saved)
    else:
        held = f"{len(saved['collections'])} collections, {saved['chunks']} chunks"
        err.print(f"  {saved['file']} {what}: {held}, {saved['bytes']} bytes", markup=False)


@app.command("bench")
def bench(
    repo: Annotated[Path, typer.Argument(help="A git repository with a history.")] = Path(),
    back: Annotated[int, typer.Option(min=2, max=20_000, help="How many commits ago the tree is taken.")] = 700,
    as_json: AsJson = False,
) -> None:
    """How often search finds the files a commit changed by its subject, on your own history. Needs no stack."""
    from devtools_platform.app.context_bench import run_bench  # takes seconds to import: only where it is run

    tell = no_progress if as_json else progress
    indexed, asked = _teller("index", "files", tell), _teller("ask", "commits", tell)
    result = asyncio.run(run_bench(repo.absolute(), back, indexed, asked))
    if not result.questions:
        raise BadInput(
            f"None of the last {back} commits changed one to three source files that were there before.",
            hint="Give a larger --back.",
        )
    accuracy = {f"acc@{top}": None if share is None else round(share, 3) for top, share in result.accuracy.items()}
    if as_json:
        print_json({"start": result.start, "files": result.files, "questions": result.questions, **accuracy})
        return
    out.print(f"{result.questions} commits since {result.start[:12]}, {result.files} files, by words:")
    for name, share in accuracy.items():
        out.print(f"  {name:<7} {share}")


def _show_hits(hits: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(hits)
        return
    if not hits:
        out.print("Nothing found. Try other words or a name.")
    for hit in hits:
        place = f"{hit['path']}:{hit['start_line']}-{hit['end_line']}"
        about = f"  {hit['kind']} {hit['name']}  {hit['score']:.2f} ({', '.join(hit['why'])})"
        stale = "  changed since" if hit["is_stale"] else ""
        out.print(Text.assemble((place, "bold cyan"), about, (stale, "yellow")))
        out.print(Text(hit["text"] + "\n"))


def _show_status(found: dict[str, Any], *, as_json: bool, with_skipped: bool = False) -> None:
    if as_json:
        print_json(found)
        return
    where = f"{found['repo']} at {found['commit'][:12]}" if found["commit"] else f"{found['follows']} {found['repo']}"
    out.print(Text.assemble((found["collection"], "bold"), f"  {where}"))
    state = f"{found['files']} files, {found['chunks']} chunks, {len(found['skipped'])} left out"
    if found["is_indexing"]:
        state += f"; indexing, {found['files_done']} of {found['files_total']}"
    if found["is_paused"]:
        state += f"; paused: `{program()} context resume {found['collection']}` goes on"
    if found["without_vector"]:
        state += f"; {found['without_vector']} by words only, so far"
    out.print(Text(f"  {state}"))
    if found["embedding_error"]:
        out.print(Text(f"  no vectors: {found['embedding_error']}", style="yellow"))
    if found["error"]:
        out.print(Text(f"  failed: {found['error']}", style="bold red"))
    skipped: dict[str, str] = found["skipped"] if with_skipped else {}
    for path, reason in skipped.items():
        out.print(Text(f"    {path}: {reason}"))
