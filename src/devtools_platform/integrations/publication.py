"""A finished task as GitHub shows it: branch and pull request, review with line comments, check run. Pure."""

from collections.abc import Mapping, Sequence
from typing import cast

from devtools_platform.integrations.types import Json, Message, TaskView
from devtools_platform.integrations.words import plain

ANNOTATIONS_AT_ONCE = 50
"""GitHub takes no more in one request; more are added to the run by further ones."""
CHECK_NAME = "dev-tools"
MAX_SUMMARY = 60_000
"""GitHub: 65,535 characters."""
_LEVELS = {"high": "failure", "medium": "warning", "low": "warning", "info": "notice"}


def marker(place: str) -> str:
    """Stands invisibly in what we write, so that it is found again."""
    return f"<!-- dev-tools:{place} -->"


def place_of_pull(task_id: str) -> str:
    return f"{task_id}:pull"


def publish(view: TaskView, target: Json, subject: str) -> list[Message]:
    """The messages for a task that ended with a branch. `target`: owner, repo, and what else GitHub needs."""
    attempt = f"{view.id}:{view.attempt}"
    pull = {
        **target,
        "repo_path": view.repo,
        "branch": view.branch,
        "remote_branch": f"task/{view.id}",
        "title": _title(view),
        "text": pull_text(view),
    }
    messages = [Message(f"{attempt}:pull", subject, "github", "pull", pull, place_of_pull(view.id))]
    review = _mapping(view.result.get("review"))
    if review:
        messages.append(_review(view, target, review, subject))
    return [*messages, *_check(view, target, review, subject)]


def pull_text(view: TaskView) -> str:
    """The pull request's description: what was done, how it was tested, what it cost."""
    result = view.result
    lines = [plain(view.message, 2000), "", *_tests(result), *_degraded(result), *_cost(result)]
    return "\n".join([*lines, "", f"Task `{view.id}`."])


def _title(view: TaskView) -> str:
    goal = str(view.plan[0]["goal"]) if view.plan else view.message
    return plain(goal.strip().splitlines()[0] if goal.strip() else f"Task {view.id}", 120)


def _review(view: TaskView, target: Json, review: Json, subject: str) -> Message:
    findings = findings_of(review)
    body = {
        **target,
        "pull_place": place_of_pull(view.id),
        # Never APPROVE or REQUEST_CHANGES: nobody may do that on a pull request of their own.
        "event": "COMMENT",
        "text": f"**{verdict_words(review)}** {plain(str(review.get('remark') or ''), 4000)}".strip(),
        "comments": [
            {"path": f["path"], "line": f["line"], "body": _finding(f)} for f in findings if f.get("line") is not None
        ],
        "loose": [f"`{f['path']}`: {_finding(f)}" for f in findings if f.get("line") is None],
    }
    place = f"{view.id}:{view.attempt}:review"
    return Message(place, subject, "github", "review", body, place)


def _check(view: TaskView, target: Json, review: Json, subject: str) -> list[Message]:
    commits = cast("Sequence[str]", view.result.get("commits") or ())
    if not commits:
        return []
    annotations = [
        {
            "path": f["path"],
            "start_line": f["line"] or 1,
            "end_line": f["line"] or 1,
            "annotation_level": _LEVELS.get(str(f.get("severity")), "notice"),
            "message": plain(str(f["message"]), 4000),
            "title": plain(f"{f['source']} {f['rule']}", 200),
        }
        for f in findings_of(review)
    ]
    place = f"{view.id}:{view.attempt}:check"
    output = {"title": verdict_words(review), "summary": pull_text(view)[:MAX_SUMMARY]}
    run = {
        **target,
        "sha": commits[-1],
        "name": CHECK_NAME,
        "external_id": view.id,
        "conclusion": "success" if _is_good(view, review) else "neutral",
        "output": output,
        "annotations": annotations[:ANNOTATIONS_AT_ONCE],
    }
    messages = [Message(place, subject, "github", "check", run, place)]
    for start in range(ANNOTATIONS_AT_ONCE, len(annotations), ANNOTATIONS_AT_ONCE):
        more = annotations[start : start + ANNOTATIONS_AT_ONCE]
        body = {**target, "check_place": place, "output": output, "start": start, "annotations": more}
        messages.append(Message(f"{place}:{start}", subject, "github", "annotations", body))
    return messages


def findings_of(review: Json) -> list[Json]:
    return [_mapping(finding) for finding in cast("Sequence[object]", review.get("findings") or ())]


def verdict_words(review: Json) -> str:
    if not review:
        return "Not reviewed"
    return "Approved by the review" if review.get("verdict") == "approve" else "The review asks for changes"


def _is_good(view: TaskView, review: Json) -> bool:
    tests = cast("Sequence[Json]", view.result.get("tests") or ())
    final = [test for test in tests if test.get("stage") == "final"]
    return review.get("verdict") == "approve" and all(test.get("exit_code") == 0 for test in final[-1:])


def _finding(finding: Json) -> str:
    return plain(f"{finding['message']} ({finding['source']} {finding['rule']}, {finding['severity']})", 4000)


def _tests(result: Json) -> list[str]:
    tests = cast("Sequence[Json]", result.get("tests") or ())
    if not tests:
        return ["Tests: none were run."]
    last = tests[-1]
    code = last.get("exit_code")
    verdict = "pass" if code == 0 else f"ended by its {last.get('ended_by')} limit" if code is None else f"exit {code}"
    command = " ".join(str(word) for word in cast("Sequence[object]", last.get("command") or ()))
    return [f"Tests: {verdict} (`{plain(command, 200).replace('`', '')}`)."]


def _degraded(result: Json) -> list[str]:
    lacks = cast("Sequence[Json]", result.get("degraded") or ())
    return [f"Note: {plain(str(lack['what']), 200)}. {plain(str(lack['why']), 500)}" for lack in lacks]


def _cost(result: Json) -> list[str]:
    cost, tokens = result.get("cost_usd"), _mapping(result.get("tokens"))
    price = "unknown" if cost is None else f"${float(cost):.4f}"
    return [f"Cost: {price}; {tokens.get('input', 'unknown')} + {tokens.get('output', 'unknown')} tokens."]


def _mapping(value: object) -> Json:
    return cast("Json", value) if isinstance(value, Mapping) else {}
