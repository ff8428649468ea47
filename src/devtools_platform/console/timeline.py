"""An event as one line a person can read. Pure; the kinds we know have words, any other shows its data.

Event data comes from agents and tools: nothing here trusts its shape, and the templates escape it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from devtools_platform.console.words import Tone, count, duration, money, reason_words, stage_words
from devtools_platform.core.tasks import Event

Data = Mapping[str, object]

MAX_CODE = 240
"""Characters of arguments shown on the line itself; the data below it holds all of them."""
MAX_RAW = 20_000


@dataclass(frozen=True)
class Line:
    """What one kind of event says."""

    title: str
    code: str = ""
    facts: tuple[str, ...] = ()
    tone: Tone = "plain"


@dataclass(frozen=True)
class Entry:
    """One event, ready to show."""

    seq: int
    kind: str
    label: str
    at: datetime
    agent: str | None
    line: Line
    raw: str
    """All of the event's data as indented JSON; empty when there is none."""


def make_entry(event: Event) -> Entry:
    describe = _KINDS.get(event.kind)
    line = describe(event.data) if describe else Line("", code=_clip(_compact(event.data), MAX_CODE))
    raw = json.dumps(event.data, indent=2, ensure_ascii=False, default=str) if event.data else ""
    label = event.kind.replace("_", " ")
    return Entry(event.seq, event.kind, label, event.at, event.agent, line, _clip(raw, MAX_RAW))


def _queued(_: Data) -> Line:
    return Line("Waiting for a free place")


def _started(data: Data) -> Line:
    return Line("Work began", facts=_facts(data, "model", "runtime"))


def _workspace(data: Data) -> Line:
    return Line("Private clone ready", facts=_facts(data, "branch", "base_commit", "files"))


def _plan(data: Data) -> Line:
    steps = _length(data.get("steps"))
    number = "Plan made" if steps is None else f"{steps} step{'' if steps == 1 else 's'}"
    source = {"request": "as asked", "rules": "by our routing rules", "model": "by the model"}
    return Line(number, facts=_some(source.get(_text(data, "source"), _text(data, "source"))))


def _delegated(data: Data) -> Line:
    to = _text(data, "agent") or "an agent"
    return Line(f"To {to}: {_text(data, 'goal')}".rstrip(": "), facts=_facts(data, "step"), tone="busy")


def _model_call(data: Data) -> Line:
    tokens = f"{count(_number(data, 'input_tokens'))} in, {count(_number(data, 'output_tokens'))} out"
    cost = money(_number(data, "cost_usd"))
    facts = (f"tokens {tokens}", f"cost {cost}", duration(_number(data, "duration_s")))
    return Line(_text(data, "model") or "Model", facts=facts)


def _budget_warning(data: Data) -> Line:
    spent, limit = money(_number(data, "spent_usd")), money(_number(data, "limit_usd"))
    return Line(f"The budget {_text(data, 'key')} runs low", facts=(f"{spent} of {limit} spent",), tone="warn")


def _tool_call(data: Data) -> Line:
    is_asked = _text(data, "message").startswith("A person must approve this call first")
    failed = bool(data.get("is_error")) and not is_asked
    arguments = data.get("arguments")
    code = _text(data, "tool") + (f" {_compact(arguments)}" if arguments else "")
    facts = (
        *_some("failed" if failed else "", "asked a person" if is_asked else ""),
        duration(_number(data, "duration_s")),
    )
    return Line("", code=_clip(code, MAX_CODE), facts=facts, tone="bad" if failed else "plain")


def _tests(data: Data) -> Line:
    exit_code = _number(data, "exit_code")
    ended_by = _text(data, "ended_by")
    verdict = "passing" if exit_code == 0 else f"failing, exit {count(exit_code)}"
    if ended_by:
        verdict = f"stopped: {ended_by} limit"
    title = f"{stage_words(_text(data, 'stage')) or 'Tests'}: {verdict}"
    facts = (duration(_number(data, "duration_s")),)
    return Line(title, code=_command(data), facts=facts, tone="good" if exit_code == 0 else "bad")


def _reported(data: Data) -> Line:
    is_done = _text(data, "outcome") == "done"
    title = f"{_text(data, 'agent') or 'The agent'}: {_text(data, 'summary')}".rstrip(": ")
    return Line(_clip(title, MAX_CODE), facts=_facts(data, "step"), tone="good" if is_done else "warn")


def _diff(data: Data) -> Line:
    size = f"+{count(_number(data, 'insertions'))} -{count(_number(data, 'deletions'))}"
    return Line("The change so far", facts=(*_facts(data, "files"), size))


def _review(data: Data) -> Line:
    verdict = _text(data, "verdict")
    findings = _length(data.get("findings"))
    facts = _some("" if findings is None else f"findings {findings}")
    words: dict[str, Line] = {
        "approve": Line("Approved", facts=facts, tone="good"),
        "request_changes": Line("Changes requested", facts=facts, tone="warn"),
    }
    return words.get(verdict, Line(verdict or "Reviewed", facts=facts))


def _commit(data: Data) -> Line:
    sha = (_text(data, "sha") or _text(data, "commit"))[:12]
    return Line(_text(data, "message") or "Committed", code=sha, facts=_facts(data, "branch"), tone="good")


def _degraded(data: Data) -> Line:
    return Line(": ".join(_some(_text(data, "what"), _text(data, "why"))), tone="warn")


def _approval(data: Data) -> Line:
    kind, tool = _text(data, "kind"), _text(data, "tool")
    titles = {
        "plan": "Asks whether to work by the plan",
        "publish": "Asks whether to make the branch",
        "question": "Asks a question",
    }
    title = f"Asks to call {tool}" if kind == "tool" else titles.get(kind, "Asks a person")
    arguments = data.get("arguments")
    code = _clip(_compact(arguments), MAX_CODE) if arguments else ""
    return Line(title, code=code, facts=_facts(data, "risk", "rule"), tone="warn")


def _decided(data: Data) -> Line:
    by, reason = _text(data, "by"), _text(data, "reason")
    title = f"{_text(data, 'status') or 'decided'}{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"
    return Line(_clip(title.capitalize(), MAX_CODE), tone="good" if data.get("status") == "approved" else "bad")


def _message(data: Data) -> Line:
    return Line(_clip(f"{_text(data, 'by') or 'Somebody'}: {_text(data, 'text')}", MAX_CODE), tone="busy")


def _by_person(words: str) -> Callable[[Data], Line]:
    def describe(data: Data) -> Line:
        by = _text(data, "by")
        return Line(f"{words} by {by}" if by else words, facts=_facts(data, "step", "attempt", "source"))

    return describe


def _finished(data: Data) -> Line:
    return Line(_text(data, "message") or "Done", facts=_facts(data, "branch"), tone="good")


def _failed(data: Data) -> Line:
    return Line(_text(data, "message") or "Ended without a branch", facts=_facts(data, "reason"), tone="bad")


def _cancelled(data: Data) -> Line:
    return Line(_text(data, "message") or reason_words("cancelled"), tone="warn")


_KINDS: Mapping[str, Callable[[Data], Line]] = {
    "budget_warning": _budget_warning,
    "queued": _queued,
    "started": _started,
    "workspace": _workspace,
    "plan": _plan,
    "delegated": _delegated,
    "model_call": _model_call,
    "tool_call": _tool_call,
    "tests": _tests,
    "reported": _reported,
    "diff": _diff,
    "review": _review,
    "commit": _commit,
    "degraded": _degraded,
    "approval": _approval,
    "approval_decided": _decided,
    "message": _message,
    "pause_requested": _by_person("Pause asked for"),
    "paused": _by_person("Waits until it is resumed"),
    "resumed": _by_person("Resumed"),
    "retried": _by_person("Tried again"),
    "forked": _by_person("Forked"),
    "finished": _finished,
    "failed": _failed,
    "cancelled": _cancelled,
}


def _text(data: Data, key: str) -> str:
    value = data.get(key)
    return "" if value is None else str(value)


def _number(data: Data, key: str) -> float | None:
    value = data.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _length(value: object) -> int | None:
    """How many there are, whether the event lists them or only counts them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return len(cast("list[object]", value)) if isinstance(value, list | tuple) else None


def _facts(data: Data, *keys: str) -> tuple[str, ...]:
    """`key value` for each key that is there."""
    return tuple(f"{key.replace('_', ' ')} {data[key]}" for key in keys if data.get(key) is not None)


def _some(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)


def _command(data: Data) -> str:
    command = data.get("command")
    if not isinstance(command, list | tuple):
        return _clip(_text(data, "command"), MAX_CODE)
    return _clip(" ".join(str(word) for word in cast("list[object]", command)), MAX_CODE)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str)


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[:width]}… ({len(text) - width:,} more characters)"
