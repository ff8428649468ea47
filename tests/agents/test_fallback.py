from dataclasses import dataclass, field

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from devtools_platform.agents.fallback import COOL_DOWN_S, Fallback, FallbackModel, Member, fallbacks_in
from devtools_platform.core.errors import ModelRefused, Unavailable


@dataclass
class Rig:
    """Two runtimes, the first of which fails with `failure`."""

    failure: Exception | None = None
    asked: list[str] = field(default_factory=list[str])
    told: list[Fallback] = field(default_factory=list[Fallback])
    now: float = 0.0

    def model(self, name: str, *, fails: bool = False) -> FunctionModel:
        async def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
            self.asked.append(name)
            if fails and self.failure is not None:
                raise self.failure
            return ModelResponse(parts=[TextPart(f"by {name}")])

        return FunctionModel(answer)

    async def tell(self, fallback: Fallback) -> None:
        self.told.append(fallback)

    def agent(self, *, second_fails: bool = False) -> Agent[None, str]:
        members = [
            Member("gradient big", self.model("big", fails=True)),
            Member("local small", self.model("small", fails=second_fails)),
        ]
        return Agent(FallbackModel("cicd", members, self.tell, clock=lambda: self.now))


async def test_a_runtime_that_answers_is_not_stood_in_for() -> None:
    rig = Rig()
    result = await rig.agent().run("x")

    assert (result.output, rig.told) == ("by big", [])
    assert fallbacks_in("cicd", result.all_messages()) == []


@pytest.mark.parametrize("failure", [Unavailable("it hangs."), ModelRefused("no such model.")])
async def test_a_runtime_that_fails_is_stood_in_for_and_the_answer_says_so_after_a_replay(failure: Exception) -> None:
    rig = Rig(failure)
    result = await rig.agent().run("x")
    stored = ModelMessagesTypeAdapter.validate_json(result.all_messages_json())

    assert result.output == "by small"
    assert rig.told == [Fallback("cicd", "gradient big", "local small", str(failure))]
    degraded = fallbacks_in("cicd", stored)
    assert [one.what for one in degraded] == ["cicd ran on local small"]
    assert str(failure) in degraded[0].why


async def test_what_failed_is_left_alone_for_a_while_and_then_asked_again() -> None:
    rig = Rig(Unavailable("it hangs."))
    agent = rig.agent()
    await agent.run("x")
    await agent.run("x")
    assert rig.asked == ["big", "small", "small"], "each try of one that hangs would cost its whole time limit"

    rig.now = COOL_DOWN_S + 1
    rig.failure = None
    assert (await agent.run("x")).output == "by big"
    assert len(rig.told) == 2


async def test_when_all_fail_the_last_failure_is_told() -> None:
    rig = Rig(Unavailable("it hangs."))

    with pytest.raises(Unavailable, match="it hangs"):
        await rig.agent(second_fails=True).run("x")
    assert rig.told == []


async def test_a_bug_is_not_stood_in_for() -> None:
    rig = Rig(RuntimeError("a bug"))

    with pytest.raises(RuntimeError, match="a bug"):
        await rig.agent().run("x")
    assert rig.asked == ["big"]
