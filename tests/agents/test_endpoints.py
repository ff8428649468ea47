"""Endpoints against a real server that fails on demand, and settings that mean one thing only."""

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from pydantic import SecretStr
from pydantic_ai import Agent, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import ModelRequest, SystemPromptPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.tools import ToolDefinition

from devtools_platform.agents.adapters.endpoints import (
    Endpoint,
    check_endpoint,
    choose_endpoint,
    cost_usd,
)
from devtools_platform.agents.adapters.endpoints.client import build_model
from devtools_platform.agents.adapters.endpoints.failures import explain, is_retryable
from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.config.settings import Settings
from devtools_platform.core.errors import BadInput, DevToolsError, ModelRefused, NotFound, Unavailable
from fakes.openai_server import MODELS, VERSION, FakeOpenAI, Fault

RULES = [
    {
        "agent": "feature-dev",
        "turns": [
            {"calls": [{"tool": "read_file", "arguments": {"path": "a.py"}}]},
            {"text": "All done, at last."},
        ],
    }
]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(Script.parse(RULES), models=["fake-model", "other-model"]) as server:
        yield server


@pytest.fixture
def fake(server: FakeOpenAI) -> FakeOpenAI:
    server.reset()
    return server


@pytest.fixture
def ollama() -> Iterator[FakeOpenAI]:
    models = [
        "nomic-embed-code:latest",
        "qwen3-coder:480b-cloud",
        "codellama:7b",
        "qwen2.5-coder:7b",
        "mine:latest",
    ]
    with FakeOpenAI(api_key=None, models=models, ollama_version="0.12.3") as server:
        yield server


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"use_ollama": False, **values})


def endpoint_of(fake: FakeOpenAI, **changes: Any) -> Endpoint:
    endpoint = Endpoint("openai-compatible", fake.base_url, SecretStr("test-key"), "fake-model", "standard")
    return replace(endpoint, **changes)


async def call(endpoint: Endpoint, *, timeout_s: float = 5, stream: bool = False) -> str:
    return await call_with(build_model(endpoint, timeout_s=timeout_s), stream=stream)


async def call_with(model: Model, *, stream: bool) -> str:
    agent = Agent(model, instructions="Agent: feature-dev")

    @agent.tool_plain
    def read_file(path: str) -> str:
        return f"content of {path}"

    if not stream:
        return (await agent.run("go")).output
    async with agent.run_stream("go") as result:
        return await result.get_output()


async def failure(endpoint: Endpoint, **how: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which error it is, is what callers look at
        await call(endpoint, **how)
    return caught.value


# Choosing


async def test_a_script_goes_before_everything_else(tmp_path, fake):
    chosen = await choose_endpoint(settings(model_script=tmp_path / "s.yaml", model_base_url=fake.base_url))

    assert chosen == Endpoint("scripted", None, None, "scripted", "standard")


async def test_a_named_address_and_model_need_no_question(nobody):
    chosen = await choose_endpoint(
        settings(model_base_url=f"{nobody}/v1/", model="m", model_api_key="k", gradient_model_access_key="g")
    )

    assert chosen == Endpoint("openai-compatible", f"{nobody}/v1", SecretStr("k"), "m", "standard")


async def test_the_only_model_of_an_endpoint_is_taken():
    with FakeOpenAI(models=["the-one"]) as fake:
        chosen = await choose_endpoint(settings(model_base_url=fake.base_url, model_api_key="test-key"))

    assert chosen.model == "the-one"


async def test_of_several_models_one_must_be_named(fake):
    with pytest.raises(BadInput, match=r"DEV_TOOLS_MODEL is not set.*'fake-model', 'other-model'"):
        await choose_endpoint(settings(model_base_url=fake.base_url, model_api_key="test-key"))


async def test_an_endpoint_without_a_list_needs_the_model_named(fake):
    fake.inject(Fault(kind="status", path=MODELS, status=404))

    with pytest.raises(BadInput, match="keeps no list"):
        await choose_endpoint(settings(model_base_url=fake.base_url, model_api_key="test-key"))


async def test_the_digitalocean_key_alone_means_its_endpoint_and_default_model():
    chosen = await choose_endpoint(settings(gradient_model_access_key="sk-do-x"))

    assert chosen.base_url == "https://inference.do-ai.run/v1"
    assert (chosen.provider, chosen.model, chosen.tier) == ("gradient", "llama3.3-70b-instruct", "standard")
    assert chosen.api_key == SecretStr("sk-do-x")
    assert chosen.key_setting == "GRADIENT_MODEL_ACCESS_KEY"


@pytest.mark.parametrize("empty", ["", "  \n"])
async def test_an_empty_key_is_no_key(empty):
    assert (await choose_endpoint(settings(gradient_model_access_key=empty))).provider == "embedded"


@pytest.mark.parametrize(
    ("asked", "name"), [({"model": "embedded"}, "embedded"), ({"model_file": Path("/m/qwen.gguf")}, "qwen")]
)
async def test_an_explicit_wish_for_the_embedded_model_goes_before_a_key_and_a_running_ollama(ollama, asked, name):
    chosen = await choose_endpoint(
        settings(**asked, gradient_model_access_key="k", use_ollama=True, ollama_url=ollama.origin)
    )

    assert chosen == Endpoint("embedded", None, None, name, "small")


async def test_nothing_configured_and_nothing_running_means_the_embedded_model(nobody):
    assert (await choose_endpoint(settings(use_ollama=True, ollama_url=nobody))).provider == "embedded"


async def test_a_running_ollama_serves_its_best_local_model_for_code(ollama):
    chosen = await choose_endpoint(settings(use_ollama=True, ollama_url=ollama.origin))

    assert chosen == Endpoint("ollama", ollama.base_url, None, "qwen2.5-coder:7b", "small")


async def test_ollama_serves_a_named_model_with_or_without_its_tag(ollama):
    chosen = await choose_endpoint(settings(use_ollama=True, ollama_url=ollama.origin, model="mine"))

    assert (chosen.provider, chosen.model) == ("ollama", "mine:latest")


async def test_a_model_nobody_serves_is_an_error_and_not_another_model(ollama):
    with pytest.raises(BadInput, match="'gpt-9', but no endpoint"):
        await choose_endpoint(settings(use_ollama=True, ollama_url=ollama.origin, model="gpt-9"))


async def test_an_ollama_that_must_not_be_used_is_not_asked(ollama):
    assert (await choose_endpoint(settings(ollama_url=ollama.origin))).provider == "embedded"
    assert ollama.requests == []


async def test_something_else_on_ollamas_port_is_left_alone(fake):
    chosen = await choose_endpoint(settings(use_ollama=True, ollama_url=fake.origin))

    assert chosen.provider == "embedded"
    assert [request.path for request in fake.requests] == [VERSION]


async def test_an_ollama_that_does_not_answer_holds_up_a_start_by_a_second_at_most(ollama):
    ollama.inject(Fault(kind="hang", path=VERSION))
    started = time.monotonic()

    assert (await choose_endpoint(settings(use_ollama=True, ollama_url=ollama.origin))).provider == "embedded"
    assert time.monotonic() - started < 2


async def test_an_ollama_elsewhere_is_never_used_unasked():
    with pytest.raises(BadInput, match="only an Ollama on this machine"):
        await choose_endpoint(settings(use_ollama=True, ollama_url="http://gpu.example:11434"))


async def test_the_tier_can_be_forced():
    assert (await choose_endpoint(settings(model_tier="standard"))).tier == "standard"
    assert (await choose_endpoint(settings(model_tier="small", gradient_model_access_key="k"))).tier == "small"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_base_url": "http://h/v1", "model": "embedded"}, "DEV_TOOLS_MODEL=embedded asks"),
        ({"model_base_url": "http://h/v1", "model_file": Path("m.gguf")}, "DEV_TOOLS_MODEL_FILE asks"),
        ({"model_base_url": "localhost:1234/v1", "model": "m"}, "http or https"),
        ({"model_base_url": "http://u:secretword@h/v1", "model": "m"}, "holds a user"),
        (
            {"model_base_url": "http://h/v1", "model": "m", "model_api_key": "two words"},
            "MODEL_API_KEY holds char",
        ),
        ({"gradient_model_access_key": "ключ"}, "GRADIENT_MODEL_ACCESS_KEY holds char"),
    ],
)
async def test_settings_that_cannot_be_meant_are_refused(values, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        await choose_endpoint(settings(**values))
    assert "secretword" not in str(caught.value)


# Checking


async def test_a_good_endpoint_passes(fake):
    await check_endpoint(endpoint_of(fake))

    assert [request.path for request in fake.requests] == [MODELS]


async def test_an_endpoint_that_is_not_started_yet_passes():
    await check_endpoint(Endpoint("embedded", None, None, "embedded", "small"))


@pytest.mark.parametrize("status", [404, 405])
async def test_an_endpoint_without_a_model_list_is_taken_at_its_word(fake, status):
    fake.inject(Fault(kind="status", path=MODELS, status=status))

    await check_endpoint(endpoint_of(fake, model="anything"))


async def test_a_wrong_key_is_refused_naming_its_setting_but_not_the_key(fake):
    with pytest.raises(ModelRefused, match="refuses the key in DEV_TOOLS_MODEL_API_KEY") as caught:
        await check_endpoint(endpoint_of(fake, api_key=SecretStr("sk-not-this-one")))
    assert "sk-not" not in str(caught.value)

    with pytest.raises(ModelRefused, match="GRADIENT_MODEL_ACCESS_KEY"):
        await check_endpoint(endpoint_of(fake, provider="gradient", api_key=SecretStr("x")))
    with pytest.raises(ModelRefused, match="wants a key, and there is none"):
        await check_endpoint(endpoint_of(fake, api_key=None))


async def test_an_unknown_model_is_refused_with_the_nearest_names(fake):
    with pytest.raises(ModelRefused, match=r"has no model 'fak-model'.*'fake-model'"):
        await check_endpoint(endpoint_of(fake, model="fak-model"))


async def test_an_address_where_nothing_listens_is_unavailable(fake, nobody):
    with pytest.raises(Unavailable, match="does not answer at " + nobody):
        await check_endpoint(endpoint_of(fake, base_url=f"{nobody}/v1"))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "status", "status": 503}, Unavailable),
        ({"kind": "status", "status": 429}, Unavailable),
        ({"kind": "status", "status": 400}, BadInput),
        ({"kind": "cut"}, Unavailable),
        ({"kind": "invalid_json"}, BadInput),
    ],
)
async def test_an_endpoint_that_fails_the_check_says_how(fake, fault, error):
    fake.inject(Fault(path=MODELS, **fault))

    with pytest.raises(error, match=f"{fake.base_url}/models"):
        await check_endpoint(endpoint_of(fake))


async def test_a_hanging_check_ends(fake):
    fake.inject(Fault(kind="hang", path=MODELS))

    with pytest.raises(Unavailable, match="no answer within"):
        await check_endpoint(endpoint_of(fake), timeout_s=0.2)


async def test_an_answer_without_end_is_not_read_to_its_end():
    big = [f"{number:01000}" for number in range(4_500)]
    with FakeOpenAI(models=big) as fake, pytest.raises(Unavailable, match="more than 4000000 bytes"):
        await check_endpoint(endpoint_of(fake))


# Calling


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_works_through_the_model_with_tools(fake, stream):
    assert await call(endpoint_of(fake), stream=stream) == "All done, at last."
    assert [request.turn for request in fake.chats] == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_word_for_word_what_the_library_would_send(fake, stream):
    ours = build_model(endpoint_of(fake), timeout_s=5)
    said = await call_with(ours, stream=stream)

    async with openai.AsyncOpenAI(base_url=fake.base_url, api_key="test-key", max_retries=0) as client:
        provider = OpenAICompatibleProvider("openai-compatible", openai_client=client, profile=ours.profile)
        assert await call_with(OpenAIChatModel("fake-model", provider=provider), stream=stream) == said

    # The fake numbers the calls it makes.
    sent = [json.loads(re.sub(r"call_\d+_", "call_n_", json.dumps(request.body))) for request in fake.chats]
    assert sent[:2] == sent[2:]
    assert len(sent[1]["messages"]) > len(sent[0]["messages"]) > 0
    assert [tool["function"]["name"] for tool in sent[1]["tools"]] == ["read_file"]


async def test_a_tool_that_changes_between_two_requests_is_sent_as_it_is_now(fake):
    model = build_model(endpoint_of(fake), timeout_s=5)
    asked = [ModelRequest([SystemPromptPart("Agent: feature-dev"), UserPromptPart("go")])]
    for kind in ("string", "integer", "string"):
        schema = {"type": "object", "properties": {"path": {"type": kind}}}
        tool = ToolDefinition(name="read_file", parameters_json_schema=schema)
        await model.request(asked, None, ModelRequestParameters(function_tools=[tool]))

    parameters = [request.body["tools"][0]["function"]["parameters"] for request in fake.chats]
    assert [one["properties"]["path"]["type"] for one in parameters] == ["string", "integer", "string"]


async def test_nothing_of_the_environment_goes_to_the_endpoint(fake, monkeypatch):
    for name, value in [
        ("API_KEY", "sk-env"),
        ("ORG_ID", "org-env"),
        ("PROJECT_ID", "proj-env"),
        ("BASE_URL", "x"),
    ]:
        monkeypatch.setenv(f"OPENAI_{name}", value)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    await call(endpoint_of(fake))

    assert "env" not in str([request.headers for request in fake.chats])


async def test_an_endpoint_without_keys_is_called_without_ours():
    with FakeOpenAI(Script.parse(RULES), api_key=None) as fake:
        assert await call(endpoint_of(fake, api_key=None)) == "All done, at last."


def test_a_model_cannot_be_built_before_its_server_listens():
    with pytest.raises(ValueError, match="embedded model has no address"):
        build_model(Endpoint("embedded", None, None, "embedded", "small"), timeout_s=1)


FAULTS = [
    # fault, seconds to wait (None: no use), error for a person, words in it
    ({"kind": "status", "status": 429, "retry_after": "7"}, 7.0, Unavailable, "limits how often"),
    ({"kind": "status", "status": 429}, 5.0, Unavailable, "limits how often"),
    ({"kind": "status", "status": 429, "retry_after": "0"}, 0.1, Unavailable, "limits how often"),
    ({"kind": "status", "status": 503, "retry_after": "4"}, 4.0, Unavailable, "too busy"),
    ({"kind": "status", "status": 500}, 2.0, Unavailable, "failed: HTTP 500"),
    ({"kind": "status", "status": 502}, 2.0, Unavailable, "failed: HTTP 502"),
    ({"kind": "status", "status": 408}, 1.0, Unavailable, "in time"),
    ({"kind": "cut"}, 1.0, Unavailable, "hung up"),
    ({"kind": "invalid_json"}, 1.0, Unavailable, "broken answer"),
    ({"kind": "status", "status": 429, "code": "insufficient_quota"}, None, ModelRefused, "quota"),
    ({"kind": "status", "status": 402}, None, ModelRefused, "quota"),
    ({"kind": "status", "status": 401}, None, ModelRefused, "refuses the key"),
    ({"kind": "status", "status": 403}, None, ModelRefused, "refuses the key"),
    ({"kind": "status", "status": 404}, None, ModelRefused, "does not know the model 'fake-model'"),
    ({"kind": "status", "status": 400}, None, ModelRefused, "rejects the request"),
    ({"kind": "status", "status": 422}, None, ModelRefused, "rejects the request"),
    ({"kind": "status", "status": 400, "code": "context_length_exceeded"}, None, ModelRefused, "too long"),
]


@pytest.mark.parametrize(("fault", "wait", "error", "words"), FAULTS)
async def test_a_failed_call_says_whether_to_try_again_and_what_was_wrong(fake, fault, wait, error, words):
    fake.inject(Fault(**fault))
    endpoint = endpoint_of(fake)

    failed = await failure(endpoint)

    assert len(fake.chats) == 1  # nobody below us tries again
    assert is_retryable(failed) == wait
    explained = explain(failed, endpoint)
    assert type(explained) is error
    assert words in str(explained)
    assert fake.base_url in str(explained)
    assert type(explain(failed)) is error


@pytest.mark.parametrize(("fault", "wait", "error", "words"), FAULTS)
async def test_the_openai_clients_own_errors_are_read_the_same_way(fake, fault, wait, error, words):
    fake.inject(Fault(**fault))
    messages: Any = [{"role": "system", "content": "Agent: feature-dev"}, {"role": "user", "content": "go"}]

    async with openai.AsyncOpenAI(base_url=fake.base_url, api_key="test-key", max_retries=0) as client:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which error it is, is what we look at
            await client.chat.completions.create(model="fake-model", messages=messages)

    assert is_retryable(caught.value) == wait
    assert words in str(explain(caught.value, endpoint_of(fake)))
    assert type(explain(caught.value)) is error


@pytest.mark.parametrize("kind", ["cut", "invalid_json"])
async def test_a_stream_that_breaks_off_is_a_failure_to_try_again(fake, kind):
    fake.inject(Fault(kind=kind, at=2))

    failed = await failure(endpoint_of(fake), stream=True)

    assert is_retryable(failed) == 1.0
    assert isinstance(explain(failed), Unavailable)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_choices_is_a_broken_one(fake, stream):
    fake.inject(Fault(kind="empty_choices"))

    failed = await failure(endpoint_of(fake), stream=stream)

    assert is_retryable(failed) == 1.0
    assert "broken answer" in str(explain(failed))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hanging_call_ends_in_time_and_may_be_tried_again(fake, stream):
    fake.inject(Fault(kind="hang"))
    started = time.monotonic()

    failed = await failure(endpoint_of(fake), timeout_s=0.3, stream=stream)

    assert time.monotonic() - started < 2
    assert is_retryable(failed) == 1.0
    assert "DEV_TOOLS_MODEL_TIMEOUT_S" in explain(failed).hint


async def test_an_endless_stream_is_not_saved_by_sending_a_little_now_and_then(fake):
    fake.inject(Fault(kind="slow", seconds=0.2))

    failed = await failure(endpoint_of(fake), timeout_s=0.5, stream=True)

    assert "in time" in str(explain(failed))


async def test_an_endpoint_that_is_gone_may_come_back(fake, nobody):
    failed = await failure(endpoint_of(fake, base_url=f"{nobody}/v1"))

    assert is_retryable(failed) == 1.0
    assert "cannot be reached" in str(explain(failed))


@pytest.mark.parametrize("kind", ["bad_arguments", "unknown_tool"])
async def test_a_bad_tool_call_is_put_to_the_model_and_the_run_goes_on(fake, kind):
    fake.inject(Fault(kind=kind))

    assert await call(endpoint_of(fake)) == "All done, at last."
    assert len(fake.chats) == 3


async def test_a_model_that_keeps_making_bad_calls_is_unusable_and_not_retried(fake):
    fake.inject(Fault(kind="bad_arguments", times=None))

    failed = await failure(endpoint_of(fake))

    assert isinstance(failed, UnexpectedModelBehavior)
    assert is_retryable(failed) is None
    assert "cannot be used" in str(explain(failed))


async def test_a_retry_after_date_is_a_wait_until_then(fake):
    soon = datetime.now(UTC) + timedelta(seconds=30)
    fake.inject(Fault(kind="status", status=429, retry_after=format_datetime(soon, usegmt=True)))

    wait = is_retryable(await failure(endpoint_of(fake)))

    assert wait is not None
    assert 25 < wait <= 30


def test_a_status_error_of_the_http_client_is_read_too():
    request = httpx2.Request("POST", "http://h/v1")
    for status, wait in [(503, 3.0), (404, None)]:
        response = httpx2.Response(status, request=request)
        assert is_retryable(httpx2.HTTPStatusError("no", request=request, response=response)) == wait


async def test_a_key_the_endpoint_repeats_is_not_shown(fake):
    failed = await failure(endpoint_of(fake, api_key=SecretStr("sk-proj-0123456789abcdefghij")))

    assert "Incorrect API key provided: ***" in str(explain(failed))


@pytest.mark.parametrize("bug", [IndexError("a bug"), UsageLimitExceeded("our own limit")])
def test_what_is_not_the_endpoints_doing_is_neither_retried_nor_explained(bug):
    assert is_retryable(bug) is None
    with pytest.raises(type(bug)):
        explain(bug)


def test_what_is_already_said_for_people_stays_as_it_is():
    error: DevToolsError = NotFound("no such thing")

    assert explain(error) is error
    assert is_retryable(error) is None


# Prices


@pytest.mark.parametrize(
    ("provider", "base_url", "model", "cost"),
    [
        ("gradient", "https://inference.do-ai.run/v1", "llama3.3-70b-instruct", "1.30"),
        ("openai-compatible", "https://inference.do-ai.run/v1", "qwen3-coder-flash", "2.15"),
        ("gradient", "https://inference.do-ai.run/v1", "a-model-of-next-year", None),
        ("openai-compatible", "https://api.openai.com/v1", "gpt-5-mini", "2.25"),
        ("openai-compatible", "https://openrouter.ai/api/v1", "openai/gpt-5-mini", "2.25"),
        ("openai-compatible", "https://llm.example/v1", "gpt-5-mini", None),
        ("ollama", "http://127.0.0.1:11434/v1", "qwen2.5-coder:7b", "0"),
        ("ollama", "http://127.0.0.1:11434/v1", "qwen3-coder:480b-cloud", None),
        ("embedded", None, "embedded", "0"),
        ("scripted", None, "scripted", "0"),
    ],
)
def test_a_call_costs_what_its_endpoint_charges_or_an_unknown_amount(provider, base_url, model, cost):
    endpoint = Endpoint(provider, base_url, None, model, "standard")

    assert cost_usd(endpoint, 1_000_000, 1_000_000) == (Decimal(cost) if cost else None)
