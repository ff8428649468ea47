"""What search gives: quality beside semble on the same files, and what it costs in time and memory.

    python bench/context.py docstrings DIR --packages a,b,c     functions by their docstrings, of installed packages
    python bench/context.py history REPO...                     files by the subject of the commit that changed them
    python bench/context.py changelogs DIR --packages A,B       the same of programs whose history is a `ChangeLog`
    python bench/context.py files DIR --packages a,b,c          files by what their docstrings say they are for; in Go,
                                                                Rust and TypeScript by doc comments
    python bench/context.py docs DIR                            sections by their headings
    python bench/context.py speed REPO                          index, query, save: times and memory
    python bench/context.py many DIR --chunks 200000            many chunks: storing, asking, memory, kill -9
    python bench/context.py fit DIR --packages d,e,f            the weights of `ranking.LEARNED`

semble takes part when it is installed (`pip install semble`): its words and its ranking, since its model comes
from a hub. Weights are fitted on packages that no figure is given for. Prints one JSON object.
"""

import argparse
import asyncio
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from context_changelogs import make_repository
from context_questions import GIT, SEED, Question, take_comments, take_files, take_functions, take_sections
from devtools_platform.context import localisation, ranking
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.minilm import MiniLm
from devtools_platform.context.chunking import chunk_file
from devtools_platform.context.questions import CANDIDATES
from devtools_platform.context.service import ContextService
from devtools_platform.context.types import Hit

TOP = 10
BUDGET_TOKENS = 2_000


@dataclass(frozen=True)
class Answer:
    path: str
    first: int
    last: int
    chars: int


Ask = Callable[[str, int], Any]
"""(question, how many) -> answers, best first."""


def judge_by_file(questions: Sequence[Question], answers: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """nDCG@10 over files, each counted at its best place."""
    gains: list[float] = []
    for question, given in zip(questions, answers, strict=True):
        paths = list(dict.fromkeys(answer.path for answer in given))[:TOP]
        gains.append(1 / math.log2(paths.index(question.path) + 2) if question.path in paths else 0.0)
    return {"ndcg@10": round(statistics.mean(gains), 4)}


def judge(questions: Sequence[Question], answers: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """nDCG@10 and MRR of the first answer that overlaps; recall of 80% of the lines within the token budget."""
    gains: list[float] = []
    ranks: list[float] = []
    found: list[bool] = []
    for question, given in zip(questions, answers, strict=True):
        hits = [overlaps(question, answer) for answer in given[:TOP]]
        rank = hits.index(True) if any(hits) else None
        gains.append(0.0 if rank is None else 1 / math.log2(rank + 2))
        ranks.append(0.0 if rank is None else 1 / (rank + 1))
        found.append(is_within_budget(question, given))
    return {
        "ndcg@10": round(statistics.mean(gains), 4),
        "mrr@10": round(statistics.mean(ranks), 4),
        f"recall in {BUDGET_TOKENS} tokens": round(statistics.mean(found), 4),
    }


def overlaps(question: Question, answer: Answer) -> bool:
    return answer.path == question.path and answer.first <= question.last and answer.last >= question.first


def is_within_budget(question: Question, given: Sequence[Answer]) -> bool:
    lines: set[int] = set()
    left = BUDGET_TOKENS * ranking.CHARS_PER_TOKEN
    for answer in given:
        left -= answer.chars
        if left < 0:
            break
        if answer.path == question.path:
            lines |= set(range(answer.first, answer.last + 1))
    return len(lines & set(range(question.first, question.last + 1))) >= 0.8 * (question.last - question.first + 1)


def judge_files(
    questions: Sequence[localisation.Question], answers: Sequence[Sequence[Answer]]
) -> dict[str, float | None]:
    shares = localisation.judge(questions, [[answer.path for answer in given] for given in answers])
    return {f"acc@{top}": None if share is None else round(share, 4) for top, share in shares.items()}


async def ask_all(ask: Ask, texts: Sequence[str], limit: int) -> tuple[list[list[Answer]], float]:
    """The answers, and the median milliseconds of one."""
    answers: list[list[Answer]] = []
    times: list[float] = []
    for text in texts:
        started = time.perf_counter()
        answers.append(await ask(text, limit))
        times.append(time.perf_counter() - started)
    return answers, round(1000 * statistics.median(times), 1)


def to_answer(hit: Hit) -> Answer:
    return Answer(hit.path, hit.start_line, hit.end_line, len(hit.text))


def ask_ours(service: ContextService, limit_tokens: int = 50_000) -> Ask:
    async def ask(text: str, limit: int) -> list[Answer]:
        hits = await service.search("bench", text[:2_000], min(50, limit), limit_tokens)
        return [to_answer(hit) for hit in hits]

    return ask


def build_semble(repo: Path, *, docs: bool = False) -> Ask | None:
    """semble's words and ranking, as its `search` orders them with no weight on vectors; None without it."""
    try:
        import numpy as np
        from semble.index.create import create_index_from_path
        from semble.search import search
        from semble.types import ContentType
    except ImportError:
        return None

    class NoModel:
        dim = 1

        def encode(self, texts: Sequence[str], **_: Any) -> Any:
            return np.ones((len(texts), 1), dtype=np.float32)

    kinds = (ContentType.DOCS,) if docs else (ContentType.CODE,)
    model: Any = NoModel()
    bm25, vectors, chunks, _ = create_index_from_path(repo.resolve(), model, kinds, repo.resolve())

    async def ask(text: str, limit: int) -> list[Answer]:
        found = search(text, model, vectors, bm25, chunks, limit, alpha=0.0, rerank=not docs)
        return [Answer(r.chunk.file_path, r.chunk.start_line, r.chunk.end_line, len(r.chunk.content)) for r in found]

    return ask


async def compare(repo: Path, questions: Sequence[str], judged: Callable[[Any], Any], *, docs: bool = False) -> Any:
    """Ours by words, ours with vectors and semble, asked the same about the same files in the same run."""
    results: dict[str, Any] = {}
    limit = 50
    with tempfile.TemporaryDirectory() as data:
        engine, embedder = EdgeEngine(Path(data) / "edge"), MiniLm()
        service = ContextService(engine, Path(data) / "manifests", embedder)
        service.vectors.file = Path(os.environ.get("BENCH_VECTORS", data)) / "vectors.sqlite"
        status = await service.index("bench", repo)
        results["files"], results["chunks"] = status.files, status.chunks
        await service.wait_for_vectors()
        results["without vector"] = (await service.status("bench")).without_vector
        words = ContextService(engine, Path(data) / "manifests")
        for name, asked in (("ours, words", words), ("ours", service)):
            answers, ms = await ask_all(ask_ours(asked), questions, limit)
            results[name] = {**judged(answers), "median ms": ms}
        if semble := build_semble(repo, docs=docs):
            answers, ms = await ask_all(semble, questions, limit)
            results["semble, words"] = {**judged(answers), "median ms": ms}
        await service.aclose()
        await engine.aclose()
    return results


async def run_docstrings(source: Path, packages: list[str], size: int, asked: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        questions = take_functions(source, packages, Path(folder), size, asked)
        texts = [question.text for question in questions]
        result = await compare(Path(folder), texts, lambda answers: judge(questions, answers))
    return {"functions": size, "questions": len(questions), "packages": packages, **result}


async def run_files(source: Path, packages: list[str], asked: int) -> Any:
    """Each package is a repository of its own; the means are over packages."""
    of_package: dict[str, Any] = {}
    for package in packages:
        with tempfile.TemporaryDirectory() as folder:
            is_python = any((source / package).rglob("*.py"))
            questions = (
                take_files(source, package, Path(folder), asked)
                if is_python
                else take_comments(source / package, Path(folder), asked)
            )
            texts = [question.text for question in questions]
            judged = partial(judge_by_file, questions)
            of_package[package] = {"questions": len(texts), **await compare(Path(folder), texts, judged)}
    names = [name for name in ("ours, words", "ours", "semble, words") if name in of_package[packages[0]]]
    means = {name: round(statistics.mean(p[name]["ndcg@10"] for p in of_package.values()), 4) for name in names}
    return {"mean ndcg@10": means, "packages": of_package}


async def run_docs(source: Path, asked: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        questions = take_sections(source, Path(folder), asked)
        texts = [question.text for question in questions]
        result = await compare(Path(folder), texts, lambda answers: judge(questions, answers), docs=True)
    return {"questions": len(questions), **result}


async def run_history(repo: Path, back: int) -> Any:
    """The tree as it was `back` commits ago; the questions are the subjects of the commits since."""
    start, questions = await localisation.read_questions(repo, back)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run([*GIT, "clone", "-q", "--no-checkout", str(repo), str(old)], check=True)
        subprocess.run([*GIT, "checkout", "-q", start], cwd=old, check=True)
        texts = [question.subject for question in questions]
        result = await compare(old, texts, lambda answers: judge_files(questions, answers)) if texts else {}
    return {"repository": repo.name, "questions": len(texts), **result}


async def run_changelogs(source: Path, programs: list[str], asked: int) -> Any:
    """Each program is a repository of its own; the means are over programs."""
    of_program: dict[str, Any] = {}
    for program in programs:
        with tempfile.TemporaryDirectory() as folder:
            repo = Path(folder) / "repo"
            questions = make_repository(source / program, repo, asked)
            texts = [question.subject for question in questions]
            judged = partial(judge_files, questions)
            of_program[program] = {"questions": len(texts), **await compare(repo, texts, judged)}
    means = {
        name: {
            top: round(statistics.mean(p[name][top] for p in of_program.values()), 4)
            for top in ("acc@1", "acc@5", "acc@10")
        }
        for name in ("ours, words", "ours", "semble, words")
        if name in of_program[programs[0]]
    }
    return {"means": means, "programs": of_program}


class ChanceVectors:
    """Unit vectors by chance: what a query costs does not depend on what they mean."""

    id = "chance"
    size = 384
    reads_code = False

    def __init__(self) -> None:
        self.random = random.Random(SEED)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [await self.embed_query(text) for text in texts]

    async def embed_query(self, text: str) -> list[float]:
        raw = [self.random.gauss(0, 1) for _ in range(self.size)]
        length = math.hypot(*raw)
        return [value / length for value in raw]

    async def aclose(self) -> None: ...


async def run_speed(repo: Path, queries: int) -> Any:
    """Of a copy of the repository's files, so that it can be changed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        subprocess.run([*GIT, "clone", "-q", str(repo), str(copy)], check=True)
        engine = EdgeEngine(Path(folder) / "edge")
        service = ContextService(engine, Path(folder) / "manifests")
        await engine.count()
        child = psutil.Process(engine.pid)
        spent, engine_spent, load = cpu_seconds(child), engine_seconds(child), os.getloadavg()[0]
        started = time.perf_counter()
        status = await service.index("bench", copy)
        result: dict[str, Any] = {"files": status.files, "chunks": status.chunks}
        result["index"] = {
            "seconds": round(time.perf_counter() - started, 1),
            "cpu seconds": round(cpu_seconds(child) - spent, 1),
            "of these the engine's": round(engine_seconds(child) - engine_spent, 1),
            "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
        }
        texts = random_queries(copy, queries)
        result["query, words, ms"] = await measure(lambda text: service.search("bench", text), texts)
        names = [text.split()[0] for text in texts]
        result["symbol, ms"] = await measure(lambda name: service.search("bench", name), names)
        chance = ContextService(engine, Path(folder) / "manifests", ChanceVectors())
        chance.fill("bench")
        await chance.wait_for_vectors()
        result["query, words and vectors, ms"] = await measure(lambda text: chance.search("bench", text), texts)
        model = MiniLm()
        await model.embed_query("warm")
        result["the question's own vector, ms"] = await measure(model.embed_query, texts)
        whole = ContextService(engine, Path(folder) / "manifests", model)
        result["query, its vector made too, ms"] = await measure(lambda text: whole.search("bench", text), texts)
        of_part = {"engine": child.memory_full_info(), "service with the model": psutil.Process().memory_full_info()}
        result["memory, MB: resident, its own alone"] = {
            name: (memory.rss // 2**20, memory.uss // 2**20) for name, memory in of_part.items()
        }
        result["disk, MB"] = sum(f.stat().st_blocks * 512 for f in Path(folder, "edge").rglob("*")) // 2**20
        result["saved file searchable, ms"] = await measure_saves(service, copy)
        result["answers while indexing, ms"] = await measure_while_indexing(service, copy, texts)
        for part in (service, chance, model, engine):
            await part.aclose()
    return result


async def run_many(source: Path, wanted: int, queries: int) -> Any:
    """`wanted` chunks: those of a folder's Python files, stored again and again under names of their own."""
    cut = [chunk_file(str(f.relative_to(source)), f.read_bytes()).chunks for f in sorted(source.rglob("*.py"))]
    with tempfile.TemporaryDirectory() as folder:
        engine = EdgeEngine(Path(folder) / "edge")
        await engine.count()
        child = psutil.Process(engine.pid)
        stored, copy, started = 0, 0, time.perf_counter()
        while stored < wanted:
            for number, chunks in enumerate(cut):
                renamed = [replace(chunk, name=f"{chunk.name}_{copy}") for chunk in chunks]
                await engine.put("bench", {f"{copy}-{number}": renamed})
                stored += len(chunks)
            copy += 1
        result: dict[str, Any] = {"chunks": await engine.count(), "seconds": round(time.perf_counter() - started, 1)}
        result["cpu seconds of the engine"] = round(engine_seconds(child), 1)
        texts = random_queries(source, queries)
        result["query, words, ms"] = await measure(lambda text: engine.search("bench", text, limit=CANDIDATES), texts)
        result["memory of the engine, MB"] = child.memory_info().rss // 2**20
        os.kill(child.pid, signal.SIGKILL)
        started = time.perf_counter()
        result["chunks after kill -9"] = await engine.count()
        result["reopened in seconds"] = round(time.perf_counter() - started, 1)
        await engine.aclose()
    return result


def engine_seconds(child: psutil.Process) -> float:
    times = child.cpu_times()
    return times.user + times.system


def cpu_seconds(child: psutil.Process) -> float:
    """Of the service, of its children that have ended (git, what cuts files), and of the engine."""
    own = psutil.Process().cpu_times()
    return own.user + own.system + own.children_user + own.children_system + engine_seconds(child)


def random_queries(repo: Path, count: int) -> list[str]:
    """Names of functions in their words, two at a time."""
    names = sorted({n for f in repo.rglob("*.py") for n in re.findall(r"def ([a-z_]{8,40})\(", f.read_text())})
    draw = random.Random(SEED)
    return [f"{draw.choice(names)} {draw.choice(names).replace('_', ' ')}" for _ in range(count)]


async def measure(call: Callable[[str], Any], texts: Sequence[str]) -> dict[str, float]:
    times: list[float] = []
    for text in texts:
        started = time.perf_counter()
        await call(text)
        times.append(1000 * (time.perf_counter() - started))
    return percentiles(times)


def percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 1) for p in (50, 95, 99)}


async def measure_saves(service: ContextService, root: Path) -> dict[str, float]:
    await service.watch("bench", root)
    file = next(f for f in sorted(root.rglob("*.py")) if 5_000 < f.stat().st_size < 20_000)
    before = file.read_text()
    times: list[float] = []
    for number in range(30):
        name = f"zebra{number}quagga"
        file.write_text(f"{before}\ndef {name}():\n    return {number}\n")
        started = time.perf_counter()
        async with asyncio.timeout(10):
            while not any(hit.name == name for hit in await service.search("bench", name)):
                await asyncio.sleep(0.001)
        times.append(1000 * (time.perf_counter() - started))
    await service.unwatch("bench")
    return percentiles(times)


async def measure_while_indexing(service: ContextService, repo: Path, texts: Sequence[str]) -> dict[str, float]:
    work = asyncio.create_task(service.index("second", repo))
    times: list[float] = []
    while not work.done():
        started = time.perf_counter()
        await service.search("bench", texts[len(times) % len(texts)])
        times.append(1000 * (time.perf_counter() - started))
        await asyncio.sleep(0.01)
    await work
    return percentiles(times)


async def run_fit(source: Path, packages: list[str], size: int, asked: int) -> Any:
    """Weights that make the docstring's function most probable among the functions found (listwise softmax)."""
    import numpy as np

    rows: list[tuple[list[dict[str, float]], list[bool]]] = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data:
        questions = take_functions(source, packages, Path(folder), size, asked)
        engine, model = EdgeEngine(Path(data) / "edge"), MiniLm()
        service = ContextService(engine, Path(data) / "manifests", model)
        await service.index("bench", Path(folder))
        await service.wait_for_vectors()
        for question in questions:
            vector = await model.embed_query(question.text)
            found = await engine.search("bench", question.text, limit=CANDIDATES, vector=vector)
            found = [c for c in found if c.chunk.kind in {"function", "method"}]
            gold = [overlaps(question, Answer(c.chunk.path, c.chunk.start_line, c.chunk.end_line, 0)) for c in found]
            if any(gold):
                rows.append((ranking.measure(question.text, found), gold))
        await service.aclose()
        await engine.aclose()
    names = list(ranking.LEARNED)
    sets = [
        (
            np.array([[signals[name] for name in names] for signals in measured]),
            np.array([sum(w * signals[name] for name, w in ranking.GIVEN.items()) for signals in measured]),
            np.array(gold),
        )
        for measured, gold in rows
    ]
    weights = np.ones(len(names))
    for _ in range(2_000):
        step = -0.002 * weights
        for signals, given, gold in sets:
            odds = np.exp(signals @ weights + given - (signals @ weights + given).max())
            chance, wanted = odds / odds.sum(), odds * gold / (odds * gold).sum()
            step += signals.T @ (wanted - chance) / len(sets)
        weights += 0.5 * step
    return {"questions": len(sets), "weights": {n: round(float(w), 2) for n, w in zip(names, weights, strict=True)}}


async def run(arguments: argparse.Namespace) -> Any:
    if arguments.what == "docstrings":
        packages = arguments.packages.split(",")
        return await run_docstrings(arguments.where[0], packages, arguments.functions, arguments.questions)
    if arguments.what == "fit":
        packages = arguments.packages.split(",")
        return await run_fit(arguments.where[0], packages, arguments.functions, arguments.questions)
    if arguments.what == "files":
        return await run_files(arguments.where[0], arguments.packages.split(","), arguments.questions)
    if arguments.what == "docs":
        return await run_docs(arguments.where[0], arguments.questions)
    if arguments.what == "changelogs":
        return await run_changelogs(arguments.where[0], arguments.packages.split(","), arguments.questions)
    if arguments.what == "history":
        return [await run_history(repo.resolve(), arguments.back) for repo in arguments.where]
    if arguments.what == "many":
        return await run_many(arguments.where[0].resolve(), arguments.chunks, arguments.questions)
    return await run_speed(arguments.where[0].resolve(), arguments.questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["docstrings", "files", "history", "changelogs", "docs", "speed", "many", "fit"]
    )
    parser.add_argument("where", nargs="+", type=Path)
    parser.add_argument("--packages", default="")
    parser.add_argument("--functions", type=int, default=4_000)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--back", type=int, default=700, help="how many commits ago the tree is taken")
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
