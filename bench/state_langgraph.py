"""LangGraph's side of `state.py`: one measurement a process, in an environment that has LangGraph and not us.

Set up in its favour: asynchronous, one connection pool, and a saver for each thread of work, because one shared
saver holds a lock around every write.
"""

import argparse
import asyncio
import operator
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

import state_meter

POOL = 15  # as many connections as our own process takes at most


class State(TypedDict):
    number: int
    results: Annotated[list[str], operator.add]


class Bench:
    def __init__(self, options: argparse.Namespace, pool: AsyncConnectionPool[Any]) -> None:
        self.options = options
        self.pool = pool
        self.meter = state_meter.Meter(options.postmaster)

    def compile(self, step: Any, steps: int) -> Any:
        graph = StateGraph(State)
        graph.add_node("step", step)
        graph.add_edge(START, "step")
        graph.add_conditional_edges("step", lambda state: END if state["number"] >= steps else "step")
        return graph.compile(checkpointer=AsyncPostgresSaver(self.pool))

    async def run(self, graph: Any, argument: Any, thread: str) -> Any:
        config = {"configurable": {"thread_id": thread}, "recursion_limit": 10_000}
        return await graph.ainvoke(argument, config, durability=self.options.durability)

    async def steps(self) -> dict[str, Any]:
        graphs = [self.compile(plain, self.options.steps) for _ in range(self.options.workflows)]
        for _ in range(state_meter.ROUNDS + 1):
            self.meter.start()
            await asyncio.gather(*(self.run(graph, fresh(), str(uuid.uuid4())) for graph in graphs))
            self.meter.stop(self.options.steps * self.options.workflows)
        return self.meter.result()

    async def workflows(self) -> dict[str, Any]:
        """One step each, 32 at a time."""
        for _ in range(state_meter.ROUNDS + 1):
            left = iter(range(self.options.workflows))

            async def work(left: Any = left) -> None:
                graph = self.compile(plain, 1)
                for _ in left:
                    await self.run(graph, fresh(), str(uuid.uuid4()))

            self.meter.start()
            await asyncio.gather(*(work() for _ in range(32)))
            self.meter.stop(self.options.workflows)
        return self.meter.result()

    async def approval(self) -> dict[str, Any]:
        """From `Command(resume=...)` to the next node. The caller runs it: there is no worker to wake."""
        began: list[float] = []

        async def wait(state: State) -> dict[str, Any]:
            interrupt("approve?")
            return {"number": state["number"] + 1, "results": []}

        async def after(state: State) -> dict[str, Any]:
            began.append(time.perf_counter())
            return {"number": state["number"], "results": [state_meter.RESULT]}

        graph = StateGraph(State)
        graph.add_node("wait", wait)
        graph.add_node("after", after)
        graph.add_edge(START, "wait")
        graph.add_edge("wait", "after")
        graph.add_edge("after", END)
        compiled = graph.compile(checkpointer=AsyncPostgresSaver(self.pool))
        threads = [str(uuid.uuid4()) for _ in range(self.options.workflows)]
        for thread in threads:
            await self.run(compiled, fresh(), thread)
        latencies: list[float] = []
        for thread in threads:
            decided = time.perf_counter()
            await self.run(compiled, Command(resume=True), thread)
            latencies.append(1000 * (began[-1] - decided))
        return {"median_ms": round(median(latencies), 1), "worst_ms": round(max(latencies), 1)}

    async def first(self) -> dict[str, Any]:
        await self.run(self.with_effects(), fresh(), "doubled")
        return {}

    async def second(self) -> dict[str, Any]:
        graph = self.with_effects()
        await asyncio.to_thread(state_meter.wait_for_go)
        await self.run(graph, None, "doubled")
        return {}

    def with_effects(self) -> Any:
        async def step(state: State) -> dict[str, Any]:
            state_meter.add_effect(self.options.effects, state["number"])
            return await plain(state)

        return self.compile(step, state_meter.EFFECTS)


async def plain(state: State) -> dict[str, Any]:
    return {"number": state["number"] + 1, "results": [state_meter.RESULT]}


def fresh() -> State:
    return {"number": 0, "results": []}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(options.url, min_size=POOL, max_size=POOL, kwargs=settings, open=False) as pool:
        await AsyncPostgresSaver(pool).setup()
        return await getattr(Bench(options, pool), options.case)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=["steps", "workflows", "approval", "first", "second"], required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--postmaster", type=int, default=0)
    parser.add_argument("--workflows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--durability", choices=["sync", "async", "exit"], default="sync")
    parser.add_argument("--effects", type=Path)
    state_meter.emit(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
