"""The scripted model, driven through pydantic-ai agents and by its file."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, ModelResponse, ToolReturnPart

from devtools_platform.agents.adapters.scripted import Reply, Script, ScriptedModel
from devtools_platform.core.errors import BadInput, ModelRefused

SCRIPT = """
- agent: feature-dev
  when: "add .* numbers"
  turns:
    - calls:
        - {tool: read_file, arguments: {path: a.py}}
        - {tool: read_file, arguments: {path: b.py}}
    - text: "Both read."
- agent: feature-dev
  turns: [{text: "Something else."}]
- agent: orchestrator
  turns: [{output: {verdict: go, score: 3}}]
"""


class Verdict(BaseModel):
    verdict: str
    score: int


class Refusal(BaseModel):
    reason: str


@pytest.fixture
def script(tmp_path: Path) -> Script:
    path = tmp_path / "replies.yaml"
    path.write_text(SCRIPT)
    return Script.load(path)


def make_agent(script: Script) -> tuple[Agent, list[str]]:
    agent = Agent(ScriptedModel(script, "feature-dev"), instructions="Be brief.")
    read: list[str] = []

    @agent.tool_plain
    def read_file(path: str) -> str:
        read.append(path)
        return f"content of {path}"

    return agent, read


async def test_a_run_makes_the_scripted_calls_and_ends_with_the_scripted_text(script):
    agent, read = make_agent(script)

    result = await agent.run("add two numbers")

    assert sorted(read) == ["a.py", "b.py"], "called at once, in whatever order"
    assert result.output == "Both read."
    answer = result.all_messages()[-1]
    assert isinstance(answer, ModelResponse)
    assert (answer.model_name, answer.provider_name, answer.finish_reason) == ("scripted", "scripted", "stop")


async def test_the_first_rule_whose_pattern_is_in_the_first_prompt_speaks(script):
    agent, read = make_agent(script)

    result = await agent.run("rename a variable")

    assert result.output == "Something else."
    assert read == []


async def test_a_run_taken_up_from_stored_history_goes_on_at_the_next_turn(script):
    agent, _ = make_agent(script)
    whole = (await agent.run("add two numbers")).all_messages()
    # What a killed process leaves behind: everything up to the tool results, as JSON.
    stored = ModelMessagesTypeAdapter.dump_json(whole[:-1])

    revived, read = make_agent(script)
    result = await revived.run(message_history=ModelMessagesTypeAdapter.validate_json(stored))

    assert result.output == "Both read."
    assert read == []


async def test_a_reply_is_the_same_however_often_it_is_asked_for(script):
    results = [await make_agent(script)[0].run("add two numbers") for _ in range(2)]

    ids = [
        [
            part.tool_call_id
            for message in result.all_messages()
            for part in message.parts
            if part.part_kind == "tool-call"
        ]
        for result in results
    ]
    assert ids[0] == ids[1] == ["scripted-0-0", "scripted-0-1"]


async def test_tokens_are_characters_by_four_rounded_up(script):
    agent = Agent(ScriptedModel(script, "feature-dev"), instructions="12345678")

    result = await agent.run("1234567890")

    assert result.usage.input_tokens == 5  # (8 + 10) / 4 = 4.5
    assert result.usage.output_tokens == 4  # "Something else." is 15


@pytest.mark.parametrize(
    "output",
    [Verdict, ToolOutput(Verdict, name="give_verdict"), NativeOutput(Verdict)],
    ids=["tool", "named", "native"],
)
async def test_a_structured_output_takes_the_form_the_request_declares(script, output):
    agent = Agent(ScriptedModel(script, "orchestrator"), output_type=output)

    result = await agent.run("judge")

    assert result.output == Verdict(verdict="go", score=3)


async def test_of_several_output_tools_the_one_that_fits_is_meant(script):
    agent = Agent(ScriptedModel(script, "orchestrator"), output_type=[Refusal, Verdict])

    assert (await agent.run("judge")).output == Verdict(verdict="go", score=3)


async def test_an_output_where_only_text_is_wanted_is_an_error_that_says_so(script):
    with pytest.raises(BadInput, match=r"turn 0 of 'orchestrator' is an `output`.*it wants text"):
        await Agent(ScriptedModel(script, "orchestrator")).run("judge")


async def test_a_stream_carries_the_same_replies(script):
    agent, read = make_agent(script)

    async with agent.run_stream("add two numbers") as stream:
        text = "".join([piece async for piece in stream.stream_text(delta=True)])

    assert text == "Both read."
    assert sorted(read) == ["a.py", "b.py"], "called at once, in whatever order"
    assert stream.usage.output_tokens > 0


async def test_out_of_turns_is_refused_naming_agent_turn_and_rules():
    script = Script.parse([{"agent": "cicd", "when": "x", "turns": [{"calls": [{"tool": "missing"}]}]}])

    with pytest.raises(ModelRefused, match=r"no reply for 'cicd' at turn 1.*used up.*1\. cicd when 'x': 1 turn"):
        await Agent(ScriptedModel(script, "cicd")).run("xyz")


def test_no_fitting_rule_is_refused_with_the_prompt_it_was_asked_for(script):
    with pytest.raises(ModelRefused, match=r"'cicd' at turn 0: no rule fits .* 'build it'"):
        script.reply("cicd", "build it", 0)


async def test_a_call_to_an_unknown_tool_reaches_the_agent_as_the_model_made_it():
    script = Script.parse([{"agent": "cicd", "turns": [{"calls": [{"tool": "missing"}]}, {"text": "sorry"}]}])

    result = await Agent(ScriptedModel(script, "cicd")).run("go")

    assert result.output == "sorry"
    told = result.all_messages()[2]
    assert isinstance(told, ModelRequest)
    part = told.parts[0]
    assert isinstance(part, ToolReturnPart)
    assert "missing" in part.model_response_str()


def test_a_json_file_is_a_script_too(tmp_path):
    path = tmp_path / "replies.json"
    path.write_text(json.dumps([{"agent": "documentation", "turns": [{"text": "Written."}]}]))

    assert Script.load(path).reply("documentation", "", 0) == Reply(text="Written.")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- agent: No Body\n  turns: [{text: a}]", r"rules\[0\]\.agent: .*pattern"),
        ("- agent: cicd\n  turns: []", r"rules\[0\]\.turns: .*at least 1"),
        ("- agent: cicd\n  turns: [{text: a, output: {}}]", r"rules\[0\]\.turns\[0\]: .*exactly one of"),
        ("- agent: cicd\n  turns: [{calls: []}]", "exactly one of"),
        ("- agent: cicd\n  when: '('\n  turns: [{text: a}]", r"rules\[0\]\.when: .*not a regular expression"),
        ("- agent: cicd\n  answers: [{text: a}]", "rules"),
        ("just words", "rules: Input should be a valid tuple"),
        ("- [unclosed", "cannot be read as YAML or JSON: .*line 1"),
    ],
)
def test_a_wrong_script_is_refused_saying_what_is_wrong_where(tmp_path, content, problem):
    path = tmp_path / "replies.yaml"
    path.write_text(content)

    with pytest.raises(BadInput, match=problem) as caught:
        Script.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_script_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.yaml.*No such file"):
        Script.load(tmp_path / "nowhere.yaml")
