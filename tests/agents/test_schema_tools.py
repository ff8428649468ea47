"""Tools carried by JSON schemas: exact behaviour over a scripted model, skill over the real embedded one."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelRetry, Tool
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.adapters.embedded_model import find_cached
from devtools_platform.agents.adapters.llama_server import LlamaServer
from devtools_platform.agents.adapters.schema_tools import SchemaToolModel
from devtools_platform.config.settings import load_settings


class Script:
    """A model that says these lines in turn and keeps what it was asked."""

    def __init__(self, *lines: object, finish_reason: Literal["stop", "length"] = "stop") -> None:
        self.lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        self.finish_reason: Literal["stop", "length"] = finish_reason
        self.asked: list[tuple[list[ModelMessage], AgentInfo]] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked.append((messages, info))
        return ModelResponse(
            parts=[TextPart(self.lines[len(self.asked) - 1])],
            usage=RequestUsage(input_tokens=10, output_tokens=2),
            finish_reason=self.finish_reason,
        )

    def model(self, **options: Any) -> SchemaToolModel:
        return SchemaToolModel(FunctionModel(self, profile=ModelProfile(supports_json_schema_output=True)), **options)

    def schema(self, turn: int) -> dict[str, Any]:
        output = self.asked[turn][1].model_request_parameters.output_object
        assert output
        return output.json_schema

    def offered(self, turn: int) -> list[str]:
        return [member["properties"]["tool"]["const"] for member in self.schema(turn)["anyOf"]]

    def arguments_of(self, turn: int, tool: str) -> dict[str, Any]:
        members = [m["properties"] for m in self.schema(turn)["anyOf"]]
        return next(m["arguments"] for m in members if m["tool"]["const"] == tool)

    def heard(self, turn: int) -> list[str]:
        """The chat of one turn, `user:` and `assistant:` lines."""
        lines: list[str] = []
        for message in self.asked[turn][0]:
            who = "user" if isinstance(message, ModelRequest) else "assistant"
            for part in message.parts:
                assert isinstance(part, (UserPromptPart, TextPart))
                lines.append(f"{who}: {part.content}")
        return lines


def step(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": tool, "arguments": arguments}


def make_agent(model: SchemaToolModel, output: Any = str) -> Agent[None, Any]:
    agent = Agent(model, output_type=output, instructions="You mend programs.")

    @agent.tool_plain
    def read_file(path: str) -> str:
        """Read one file."""
        return f"text of {path}"

    @agent.tool_plain
    def run_tests() -> str:
        """Run the tests."""
        return "1 failed"

    return agent


class Verdict(BaseModel):
    is_good: bool
    reason: str


async def test_a_chosen_tool_runs_and_the_final_answer_is_the_output() -> None:
    script = Script(step("read_file", path="a.py"), step("final_answer", text="It is fine."))
    result = await make_agent(script.model()).run("Look at a.py")
    assert result.output == "It is fine."
    assert script.offered(0) == ["read_file", "run_tests", "final_answer"]
    calls = [c for m in result.all_messages() if isinstance(m, ModelResponse) for c in m.tool_calls]
    assert [(c.tool_name, c.args, c.tool_call_id) for c in calls] == [("read_file", {"path": "a.py"}, "call_1")]


async def test_the_wrapped_model_sees_a_plain_chat_and_no_tools() -> None:
    script = Script(step("read_file", path="a.py"), step("final_answer", text="Done."))
    await make_agent(script.model()).run("Look at a.py")
    assert script.heard(1) == [
        "user: Look at a.py",
        'assistant: {"tool": "read_file", "arguments": {"path": "a.py"}}',
        "user: Result of read_file:\ntext of a.py",
    ]
    info = script.asked[1][1]
    assert info.function_tools == []
    assert info.output_tools == []
    assert info.instructions == (
        "You mend programs.\n\n"
        'Answer with one JSON object: {"tool": NAME, "arguments": {...}}. You can use:\n'
        "- read_file(path: string) Read one file.\n"
        "- run_tests() Run the tests.\n"
        "- final_answer(text: string) [ends the work] The answer in words."
    )


async def test_structured_output_is_one_of_the_ways_to_end() -> None:
    script = Script(step("run_tests"), step("final_result", is_good=True, reason="green"))
    result = await make_agent(script.model(), Verdict).run("Judge")
    assert result.output == Verdict(is_good=True, reason="green")
    assert script.offered(0) == ["read_file", "run_tests", "final_result"]


async def test_structured_output_without_tools_is_asked_for_by_its_own_schema() -> None:
    script = Script({"is_good": False, "reason": "red"})
    result = await Agent(script.model(), output_type=Verdict).run("Judge")
    assert result.output == Verdict(is_good=False, reason="red")
    assert set(script.schema(0)["properties"]) == {"is_good", "reason"}
    assert script.asked[0][1].instructions is None


async def test_without_tools_and_structure_the_model_just_talks() -> None:
    script = Script("Hello.")
    assert (await Agent(script.model()).run("Hi")).output == "Hello."
    assert script.asked[0][1].model_request_parameters.output_object is None


async def test_invalid_arguments_come_back_to_the_model_as_a_result() -> None:
    script = Script(step("mend", line=0), step("mend", line=3), step("final_answer", text="ok"))
    agent = Agent(script.model())

    @agent.tool_plain
    def mend(line: int) -> str:
        if line < 1:
            raise ModelRetry("lines count from 1")
        return "mended"

    assert (await agent.run("Mend")).output == "ok"
    assert "lines count from 1" in script.heard(1)[-1]


async def test_a_repeated_call_is_refused_once_and_then_only_the_end_is_offered() -> None:
    again = step("read_file", path="a.py")
    script = Script(again, again, again, step("final_answer", text="enough"))
    result = await make_agent(script.model()).run("Look")
    assert result.output == "enough"
    assert "You already called read_file" in script.heard(2)[-1]
    assert script.offered(3) == ["final_answer"]
    assert result.usage.requests == 2
    assert result.usage.input_tokens == 40


async def test_a_repeat_that_is_refused_may_be_followed_by_another_call() -> None:
    again = step("read_file", path="a.py")
    script = Script(again, again, step("read_file", path="b.py"), step("final_answer", text="done"))
    assert (await make_agent(script.model()).run("Look")).output == "done"
    assert "text of b.py" in script.heard(3)[-1]


async def test_a_tool_without_arguments_is_not_offered_twice() -> None:
    script = Script(step("run_tests"), step("final_answer", text="red"))
    await make_agent(script.model()).run("Test")
    assert script.offered(1) == ["read_file", "final_answer"]


async def test_after_a_change_a_call_may_be_made_again() -> None:
    script = Script(step("run_tests"), step("edit", text="x"), step("run_tests"), step("final_answer", text="ok"))
    agent = make_agent(script.model(changes="edit".__eq__))

    @agent.tool_plain
    def edit(text: str) -> str:
        return "written"

    assert (await agent.run("Mend")).output == "ok"
    assert "run_tests" in script.offered(2)


async def test_a_new_run_over_an_old_history_may_make_the_same_call() -> None:
    script = Script(
        step("run_tests"), step("final_answer", text="1"), step("run_tests"), step("final_answer", text="2")
    )
    agent = make_agent(script.model())
    first = await agent.run("Test")
    second = await agent.run("Test again", message_history=first.all_messages())
    assert second.output == "2"
    ids = [c.tool_call_id for m in second.all_messages() if isinstance(m, ModelResponse) for c in m.tool_calls]
    assert ids == ["call_1", "call_2"]


async def test_when_no_turns_are_left_only_the_end_is_offered() -> None:
    script = Script(step("read_file", path="a"), step("read_file", path="b"), step("final_answer", text="out"))
    assert (await make_agent(script.model(max_turns=2)).run("Look")).output == "out"
    assert script.offered(2) == ["final_answer"]


async def test_live_values_narrow_arguments_and_are_said_last() -> None:
    def paths(tool: str, argument: str) -> Sequence[str] | None:
        return ["a.py", "b.py"] if (tool, argument) == ("read_file", "path") else None

    script = Script(step("read_file", path="b.py"), step("final_answer", text="done"))
    await make_agent(script.model(enums=paths)).run("Look")
    assert script.arguments_of(0, "read_file")["properties"]["path"]["enum"] == ["a.py", "b.py"]
    assert script.heard(0)[-1] == "user: read_file: path is one of a.py, b.py"
    assert "b.py" not in str(script.asked[0][1].instructions)


async def test_a_tool_with_no_value_to_take_is_not_offered() -> None:
    def no_paths(tool: str, _argument: str) -> Sequence[str] | None:
        return [] if tool == "read_file" else None

    script = Script(step("final_answer", text="nothing to read"))
    await make_agent(script.model(enums=no_paths)).run("Look")
    assert script.offered(0) == ["run_tests", "final_answer"]


class Leaf(BaseModel):
    name: str


class Tree(BaseModel):
    leaf: Leaf
    kind: Literal["oak", "elm"]
    children: list["Tree"] = Field(default_factory=list["Tree"])


async def test_references_are_flattened_and_recursive_ones_find_their_definition() -> None:
    script = Script(step("grow", tree={"leaf": {"name": "x"}, "kind": "elm"}, size=1), step("final_answer", text="ok"))
    agent = Agent(script.model())

    @agent.tool_plain
    def grow(tree: Tree, size: int) -> str:
        assert tree.leaf.name == "x"
        return "grown"

    assert (await agent.run("Grow")).output == "ok"
    schema = script.schema(0)
    tree = script.arguments_of(0, "grow")["properties"]["tree"]
    assert tree["properties"]["leaf"]["properties"]["name"]["type"] == "string"
    assert tree["properties"]["children"]["items"] == {"$ref": "#/$defs/grow.Tree"}
    assert schema["$defs"]["grow.Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/grow.Tree"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script('{"tool": "read_f', finish_reason="length"), "cut off"),
        (Script("I would read the file."), "is not JSON"),
        (
            Script(step("delete_everything")),
            "'delete_everything'.*was offered read_file, run_tests, final_answer",
        ),
        (Script({"tool": "read_file", "arguments": "a.py"}), "arguments 'a.py'"),
        (Script([1, 2]), "not an object"),
    ],
)
async def test_an_unusable_answer_says_what_was_wrong(script: Script, said: str) -> None:
    with pytest.raises(UnexpectedModelBehavior, match=said):
        await make_agent(script.model()).run("Look")


async def test_a_streamed_run_gives_the_same_output() -> None:
    script = Script(step("run_tests"), step("final_answer", text="red"))
    async with make_agent(script.model()).run_stream("Test") as stream:
        assert await stream.get_output() == "red"


# The real model, where it is cached.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenAIChatModel]:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    path = find_cached(load_settings().cache_dir)
    if path is None:
        pytest.skip("the embedded model is not cached; run `dev-tools model pull`")
    async with LlamaServer(path, log_file=tmp_path_factory.mktemp("llama") / "model.log") as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=110)
        yield OpenAIChatModel("coder-1.5b", provider=OpenAIProvider(openai_client=client))
        await client.close()


TOOLS: list[tuple[str, str]] = [
    ("read_file", "Read the text of one file of the repository."),
    ("search_code", "Find where a word or a function occurs in the repository."),
    ("run_tests", "Run the project's tests."),
    ("list_commits", "List the latest commits."),
    ("restart_service", "Restart a running service."),
    ("read_logs", "Read the latest log lines of a service."),
]
CASES = [
    ("What is written in the file README.md?", "read_file", "README.md"),
    ("Where is the function parse_date used?", "search_code", "parse_date"),
    ("The service billing hangs. Please restart it.", "restart_service", "billing"),
    ("Show me what the service gateway logged last.", "read_logs", "gateway"),
    ("Do the tests pass?", "run_tests", ""),
]


class PickedError(Exception):
    """Ends the run at the first call: what follows is not under test."""


def make_tool(name: str) -> Callable[..., str]:
    def with_argument(subject: str) -> str:
        raise PickedError(name, subject)

    def without_argument() -> str:
        raise PickedError(name, "")

    return without_argument if name in {"run_tests", "list_commits"} else with_argument


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_small_model_picks_the_right_one_of_six_tools(small_model: OpenAIChatModel) -> None:
    tools = [Tool(make_tool(name), name=name, description=text) for name, text in TOOLS]
    agent = Agent(SchemaToolModel(small_model), tools=tools, instructions="Use the right tool.")
    picked: list[object] = []
    for question, _, _ in CASES:
        try:
            picked.append(await agent.run(question, model_settings={"temperature": 0, "max_tokens": 200}))
        except PickedError as error:
            picked.append(error.args)
    right = [case for case, found in zip(CASES, picked, strict=True) if case[1:] == found]
    assert len(right) >= 4, picked


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_small_model_fills_a_structure(small_model: OpenAIChatModel) -> None:
    agent = Agent(SchemaToolModel(small_model), output_type=Verdict, instructions="Judge the change.")
    result = await agent.run(
        "The change deletes all tests of the project.", model_settings={"temperature": 0, "max_tokens": 200}
    )
    assert result.output.reason
