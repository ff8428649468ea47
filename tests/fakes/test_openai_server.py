"""The fake endpoint is worth something only if it is true to the wire: the real client and its types tell."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject

from devtools_platform.agents.adapters.scripted import Script
from fakes.openai_server import CHAT, FakeOpenAI, Fault

ROOT = Path(__file__).parents[2]
RULES = [
    {
        "agent": "feature-dev",
        "when": "add",
        "turns": [
            {
                "calls": [
                    {"tool": "read_file", "arguments": {"path": "src/numbers/add.py"}},
                    {"tool": "list_files"},
                ]
            },
            {"text": "The function is there and it is tested."},
        ],
    },
    {"agent": "orchestrator", "turns": [{"output": {"verdict": "go"}}]},
]
READ_FILE = {
    "type": "function",
    "function": {
        "name": "read_file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}
FINAL = {
    "type": "function",
    "function": {"name": "final_result", "parameters": {"type": "object", "properties": {"verdict": {}}}},
}


def ask(agent: str = "feature-dev", prompt: str = "add two numbers", **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": f"You work.\nAgent: {agent}\nBe brief."},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    return {"model": "fake-model", "messages": messages, **more}


def answered(reply: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The next request of a conversation: every call answered."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "done"} for call in reply.get("tool_calls") or []
    ]
    request = ask(**more)
    request["messages"] += [reply, *results]
    return request


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(Script.parse(RULES), models=["fake-model", "other-model"]) as server:
        yield server


@pytest.fixture
def fake(server: FakeOpenAI) -> FakeOpenAI:
    server.reset()
    return server


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=fake.base_url, api_key="test-key", max_retries=0, timeout=5) as client:
        yield client


def post(fake: FakeOpenAI, body: object, *, key: str = "test-key") -> httpx2.Response:
    return httpx2.post(f"{fake.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})


def error_of(response: httpx2.Response) -> ErrorObject:
    return ErrorObject.model_validate(response.json()["error"])


async def test_a_conversation_with_the_real_client_follows_the_script(client):
    first = await client.chat.completions.create(**ask(tools=[READ_FILE]))
    call, other = first.choices[0].message.tool_calls
    second = await client.chat.completions.create(**answered(first.choices[0].message.model_dump(exclude_none=True)))

    assert first.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "read_file",
        {"path": "src/numbers/add.py"},
    )
    assert (other.function.name, other.function.arguments) == ("list_files", "{}")
    assert call.id != other.id
    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content == "The function is there and it is tested."


def test_a_completion_is_what_the_clients_types_require(fake):
    raw = post(fake, ask(tools=[READ_FILE])).json()

    completion = ChatCompletion.model_validate(raw)

    assert completion.model == "fake-model"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.model_extra == {}


def test_every_event_of_a_stream_is_what_the_clients_types_require(fake):
    response = post(fake, ask(stream=True, stream_options={"include_usage": True}, tools=[READ_FILE]))

    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    chunks = [ChatCompletionChunk.model_validate_json(line) for line in lines[:-1]]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "[DONE]"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_the_real_client_reads_the_same_reply_from_a_stream(client, fake):
    whole = post(fake, ask(tools=[READ_FILE])).json()["choices"][0]["message"]

    calls: dict[int, list[str]] = {}
    stream = await client.chat.completions.create(**ask(stream=True, tools=[READ_FILE]))
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            calls.setdefault(call.index, []).append(call.function.arguments)

    assert ["".join(parts) for parts in calls.values()] == [
        call["function"]["arguments"] for call in whole["tool_calls"]
    ]
    assert len(calls[0]) > 2  # in pieces, as models do


def test_an_output_goes_to_the_output_tool_or_into_the_json_text(fake):
    as_call = post(fake, ask("orchestrator", tools=[READ_FILE, FINAL])).json()["choices"][0]["message"]
    json_mode = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"type": "object"}}}
    as_text = post(fake, ask("orchestrator", response_format=json_mode)).json()["choices"][0]["message"]

    assert as_call["tool_calls"][0]["function"] == {"name": "final_result", "arguments": '{"verdict": "go"}'}
    assert json.loads(as_text["content"]) == {"verdict": "go"}


async def test_the_model_list_is_what_the_clients_types_require(client, fake):
    assert [model.id async for model in client.models.list()] == ["fake-model", "other-model"]
    raw = httpx2.get(f"{fake.base_url}/models", headers={"Authorization": "Bearer test-key"}).json()
    assert [Model.model_validate(model).id for model in raw["data"]] == ["fake-model", "other-model"]


def test_refusals_have_the_apis_status_and_error_shape(fake):
    wrong_key = post(fake, ask(), key="sk-wrong")
    wrong_model = post(fake, {**ask(), "model": "gpt-9"})

    assert (wrong_key.status_code, error_of(wrong_key).code) == (401, "invalid_api_key")
    assert (wrong_model.status_code, error_of(wrong_model).code) == (404, "model_not_found")
    assert "gpt-9" in error_of(wrong_model).message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": []}, "non-empty array"),
        ({"model": None}, "model parameter"),
        ({"messages": [{"role": "user", "content": "add"}]}, "line `Agent: <name>`"),
        ({"tools": [{"type": "function", "function": {"name": "git.status"}}]}, "git.status"),
        (
            {"messages": [*ask()["messages"], {"role": "tool", "tool_call_id": "x", "content": ""}]},
            "preceding",
        ),
    ],
)
def test_requests_the_api_would_refuse_are_refused(fake, change, message):
    response = post(fake, {**ask(), **change})

    assert response.status_code == 400
    assert message in error_of(response).message
    assert len(fake.chats) == 1  # refused, but on record


def test_a_body_that_is_not_json_is_refused_and_on_record(fake):
    response = httpx2.post(f"{fake.base_url}/chat/completions", content="{not json")

    assert (response.status_code, error_of(response).type) == (400, "invalid_request_error")
    assert fake.chats[0].body == "{not json"


def test_a_history_with_an_unanswered_call_is_refused(fake):
    reply = post(fake, ask(tools=[READ_FILE])).json()["choices"][0]["message"]
    request = answered(reply)
    request["messages"].pop()

    response = post(fake, request)

    assert response.status_code == 400
    assert reply["tool_calls"][1]["id"] in error_of(response).message


def test_a_used_up_script_is_a_refusal_that_says_so(fake):
    response = post(fake, ask("cicd"))

    assert (response.status_code, error_of(response).code) == (400, "script_used_up")
    assert "'cicd' at turn 0" in error_of(response).message


def test_requests_are_recorded_without_the_key(fake):
    post(fake, ask(tools=[READ_FILE]))

    (recorded,) = fake.chats
    assert (recorded.number, recorded.agent, recorded.turn, recorded.path) == (1, "feature-dev", 0, CHAT)
    assert recorded.body["tools"] == [READ_FILE]
    assert "authorization" not in recorded.headers
    assert "test-key" not in httpx2.get(f"{fake.origin}/fake/requests").text


def test_a_fault_acts_on_its_request_and_then_no_more(fake):
    fake.inject(Fault(kind="status", status=503, at=2))

    assert [post(fake, ask()).status_code for _ in range(3)] == [200, 503, 200]


def test_a_fault_of_one_agent_leaves_the_others_alone(fake):
    fake.inject(Fault(kind="status", agent="orchestrator", times=None))

    final = {"tools": [FINAL]}
    statuses = [post(fake, ask(name, **final)).status_code for name in ("orchestrator", "feature-dev", "orchestrator")]
    assert statuses == [500, 200, 500]


async def test_a_rate_limit_says_when_to_come_back(fake, client):
    fake.inject(Fault(kind="status", status=429, retry_after="7"))

    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ask())
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_cut_connection_reaches_the_client_as_a_broken_connection(fake, client):
    fake.inject(Fault(kind="cut", times=2))

    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(**ask())
    with pytest.raises(openai.APIConnectionError):
        async for _ in await client.chat.completions.create(**ask(stream=True)):
            pass


async def test_a_broken_body_is_not_json(fake, client):
    fake.inject(Fault(kind="invalid_json", times=2))

    with pytest.raises(json.JSONDecodeError):
        await client.chat.completions.create(**ask())
    with pytest.raises(json.JSONDecodeError):
        async for _ in await client.chat.completions.create(**ask(stream=True)):
            pass


async def test_a_hang_lasts_until_the_client_gives_up(fake, client):
    fake.inject(Fault(kind="hang"))

    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(**ask(), timeout=0.3)
    assert (await client.chat.completions.create(**ask())).choices


def test_a_hang_of_some_seconds_is_only_slow(fake):
    fake.inject(Fault(kind="hang", seconds=0.2))

    response = post(fake, ask())

    assert response.status_code == 200
    assert response.elapsed.total_seconds() >= 0.2


def test_empty_choices_are_empty_in_both_forms(fake):
    fake.inject(Fault(kind="empty_choices", times=2))

    whole = post(fake, ask()).json()
    stream = post(fake, ask(stream=True)).text

    assert whole["choices"] == []
    assert '"finish_reason"' not in stream


@pytest.mark.parametrize("kind", ["bad_arguments", "unknown_tool"])
def test_a_made_up_call_does_not_use_up_a_turn_of_the_script(fake, kind):
    fake.inject(Fault(kind=kind))

    bad = post(fake, ask(tools=[READ_FILE])).json()["choices"][0]["message"]
    good = post(fake, answered(bad, tools=[READ_FILE])).json()["choices"][0]["message"]

    function = bad["tool_calls"][0]["function"]
    if kind == "unknown_tool":
        assert function["name"] == "no_such_tool"
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(function["arguments"])
    assert good["tool_calls"][0]["function"]["arguments"] == '{"path": "src/numbers/add.py"}'


def test_it_poses_as_ollama_only_when_told_to(fake):
    assert httpx2.get(f"{fake.origin}/api/version").status_code == 404
    with FakeOpenAI(ollama_version="0.12.3", api_key=None) as ollama:
        assert httpx2.get(f"{ollama.origin}/api/version").json() == {"version": "0.12.3"}
        assert httpx2.get(f"{ollama.base_url}/models").status_code == 200


def test_it_runs_as_a_program_for_stacks_in_other_processes(tmp_path):
    script = tmp_path / "replies.json"
    script.write_text(json.dumps(RULES))
    fault = '{"kind": "status", "status": 503, "at": 1}'
    command = [
        sys.executable,
        "-m",
        "fakes.openai_server",
        "--script",
        str(script),
        "--fault",
        fault,
        "--model",
        "m1",
    ]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            headers = {"Authorization": "Bearer test-key"}
            body = {**ask(), "model": "m1"}
            statuses = [httpx2.post(f"{url}/chat/completions", json=body, headers=headers).status_code for _ in "12"]
            origin = url.removesuffix("/v1")
            added = httpx2.post(f"{origin}/fake/faults", json={"kind": "status", "status": 500})
            statuses.append(httpx2.post(f"{url}/chat/completions", json=body, headers=headers).status_code)
            recorded = httpx2.get(f"{origin}/fake/requests").json()
        finally:
            process.send_signal(signal.SIGTERM)
    assert statuses == [503, 200, 500]
    assert added.status_code == 204
    assert [request["fault"] for request in recorded] == ["status", None, "status"]
    assert process.returncode == 0
