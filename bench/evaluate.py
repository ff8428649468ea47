"""How good a model is at the crew's work: `make eval`. Every case is judged by a program.

    python bench/evaluate.py [--agent NAME] [--limit N] [--timeout S] [--minutes M] [--json FILE]

The agents take turns, so that a run cut short (`--minutes`) has asked all of them. What was not begun is not counted.

Which model: the settings of a stack (DEV_TOOLS_MODEL_BASE_URL and DEV_TOOLS_MODEL, GRADIENT_MODEL_ACCESS_KEY, or the
embedded one if it is fetched). Cost is unknown where the endpoint's price is; it is never counted as 0.
"""

import argparse
import asyncio
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "src")]

from pydantic_evals import Case, Dataset  # noqa: E402
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext  # noqa: E402

from devtools_platform.agents import prompts  # noqa: E402
from devtools_platform.app.bare import Meter  # noqa: E402
from devtools_platform.app.models import ServedModel, choose_model, describe_model  # noqa: E402
from devtools_platform.config import load_settings  # noqa: E402
from devtools_platform.kit.git import clone_for_task, resolve_repository  # noqa: E402
from evaluation.crew import BareCrew  # noqa: E402 - needs the path above
from evaluation.judge import judge  # noqa: E402
from small_tasks import TASKS  # noqa: E402
from stacks import make_repo  # noqa: E402


@dataclass
class Result:
    """What became of a case."""

    agent: str
    problem: str
    seconds: float
    meter: Meter


def load_cases() -> list[dict[str, Any]]:
    """All cases: those of the file, and the small bugs."""
    cases = yaml.safe_load((ROOT / "bench" / "evaluation" / "cases.yaml").read_text())
    for name, (source, assertions) in TASKS.items():
        test = (
            f"import unittest\n\nfrom {name} import {name}\n\n\nclass Test(unittest.TestCase):\n"
            f"    def test_{name}(self):\n        {assertions}\n"
        )
        base = {f"{name}.py": source, f"test_{name}.py": test}
        goal = f"The tests of {name} fail. Fix the function {name}."
        cases.append({"agent": "feature-dev", "name": f"fix-{name}", "goal": goal, "base": base})
    return list(in_turns(cases))


def in_turns(cases: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One case of each agent, then the next of each."""
    agents = dict.fromkeys(case["agent"] for case in cases)
    queues = [[case for case in cases if case["agent"] == agent] for agent in agents]
    for row in itertools.zip_longest(*queues):
        yield from (case for case in row if case is not None)


async def carry_out(crew: BareCrew, case: Mapping[str, Any], place: int, timeout_s: float, folder: Path) -> Result:
    """One case: its repository, its clone, the agent's run, the judgement."""
    crew.meter = crew.new_meter()
    task_id = f"case{place}"
    repo = make_repo(folder / task_id, case.get("base") or {"README.md": "# x\n"})
    clone = crew.workspaces / task_id
    await clone_for_task(await resolve_repository(repo), clone)
    for path, text in case.get("change", {}).items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(text)
    goal = case["goal"]
    prompt = {"orchestrator": prompts.plan_prompt(goal), "code-review": ""}.get(case["agent"])
    began = time.perf_counter()
    try:
        given = prompts.step_prompt(goal, goal, None) if prompt is None else prompt
        outcome = await crew.run_agent(case["agent"], task_id, given, goal, timeout_s)
        problem = await judge(crew, case, task_id, outcome)
    except TimeoutError:
        problem = f"not done in {timeout_s:g} s"
    return Result(case["agent"], problem, time.perf_counter() - began, crew.meter)


@dataclass
class JudgedByProgram(Evaluator[Any, Result, Any]):
    def evaluate(self, ctx: EvaluatorContext[Any, Result, Any]) -> EvaluationReason:
        return EvaluationReason(not ctx.output.problem, ctx.output.problem or None)


async def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="dev-tools-eval-") as name:
        folder = Path(name)
        (folder / "workspaces").mkdir()
        served = await choose_model(settings, folder, lambda text: print(f"  {text}", file=sys.stderr))
        try:
            crew = BareCrew(settings, served, folder / "workspaces")
            cases = [c for c in load_cases() if arguments.agent in {None, c["agent"]}][: arguments.limit]
            places = {case["name"]: place for place, case in enumerate(cases)}
            by_name = {case["name"]: case for case in cases}

            done: dict[str, Result] = {}
            stop = time.perf_counter() + 60 * arguments.minutes

            async def task(case_name: str) -> Result:
                if time.perf_counter() >= stop:
                    raise NotBegun
                case = by_name[case_name]
                result = done[case_name] = await carry_out(crew, case, places[case_name], arguments.timeout, folder)
                print(f"  {case_name:<28} {result.problem or 'ok'} ({result.seconds:.0f} s)", file=sys.stderr)
                if arguments.json:
                    arguments.json.write_text(json.dumps(tell(served, done, len(cases)), indent=2) + "\n")
                return result

            dataset = Dataset(
                name="crew",
                cases=[Case(name=case["name"], inputs=case["name"]) for case in cases],
                evaluators=[JudgedByProgram()],
            )
            report = await dataset.evaluate(task, max_concurrency=1, progress=False)
            broken = [case.error_message for case in report.failures if case.name not in done]
            if any(NotBegun.__name__ not in message for message in broken):
                raise SystemExit(f"a case broke: {broken}")
        finally:
            if served.server is not None:
                await served.server.stop()
    return tell(served, done, len(cases))


class NotBegun(Exception):
    """The time was up before this case's turn."""


def tell(served: ServedModel, done: Mapping[str, Result], planned: int) -> dict[str, Any]:
    problems = {name: result.problem for name, result in done.items() if result.problem}
    ran = {"planned": planned, "ran": len(done)}
    return {"model": describe_model(served), **ran, "agents": summarise(list(done.values())), "failures": problems}


def summarise(results: list[Result]) -> dict[str, Any]:
    """Per agent: how many, how many solved, tokens, cost, seconds."""
    summary: dict[str, Any] = {}
    for agent in dict.fromkeys(result.agent for result in results):
        own = [result for result in results if result.agent == agent]
        costs = [result.meter.cost_usd for result in own]
        known = [cost for cost in costs if cost is not None]
        summary[agent] = {
            "cases": len(own),
            "solved": sum(not result.problem for result in own),
            "model_calls": sum(result.meter.calls for result in own),
            "input_tokens": total([result.meter.input_tokens for result in own]),
            "output_tokens": total([result.meter.output_tokens for result in own]),
            "cost_usd": float(sum(known)) if len(known) == len(costs) else None,
            "seconds": round(sum(result.seconds for result in own), 1),
        }
    return summary


def total(values: Sequence[float | None]) -> float | None:
    """None as soon as one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def show(done: Mapping[str, Any]) -> None:
    print(f"model: {done['model']}; {done['ran']} of {done['planned']} cases")
    print(f"{'agent':<16}{'solved':>10}{'calls':>8}{'tokens in':>12}{'out':>8}{'cost':>10}{'s':>8}")
    for agent, row in done["agents"].items():
        cost = "unknown" if row["cost_usd"] is None else f"{row['cost_usd']:.4f}"
        print(
            f"{agent:<16}{row['solved']:>4} of {row['cases']:>2}{row['model_calls']:>8}{shown(row['input_tokens']):>12}"
            f"{shown(row['output_tokens']):>8}{cost:>10}{row['seconds']:>8}"
        )


def shown(value: float | None) -> str:
    return "unknown" if value is None else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after so long")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    show(asyncio.run(evaluate(given)))
