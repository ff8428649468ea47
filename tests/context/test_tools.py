"""The tools agents see."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.interfaces import ToolServer
from devtools_platform.core.tools import Caller

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]
CALLER = Caller("task-1", "feature-dev")


async def find_collection(caller: Caller) -> str:
    return f"of-{caller.task_id}"


@pytest.fixture
async def tools(service: ContextService, tmp_path: Path, commit: Commit) -> ToolServer:
    commit(tmp_path / "repo", {"a.py": "@cached\ndef slow_sum(a):\n    return sum(a)\n"})
    await service.index("of-task-1", tmp_path / "repo")
    return ContextTools(service, find_collection)


async def test_search_gives_text_for_the_model_and_data_for_programs(tools: ToolServer):
    result = await tools.call("search", {"query": "slow sum"}, CALLER)
    assert result.text == "## a.py:1-3 function slow_sum\n@cached\ndef slow_sum(a):\n    return sum(a)"
    assert result.data["hits"][0]["start_line"] == 1
    assert not result.is_error


async def test_outline_lists_exact_lines(tools: ToolServer):
    result = await tools.call("outline", {"path": "a.py"}, CALLER)
    assert result.text == "1-3 function slow_sum"
    assert result.data["symbols"] == [
        {"name": "slow_sum", "kind": "function", "start_line": 1, "end_line": 3, "parent": None}
    ]


async def test_nothing_found_is_said_and_is_no_error(tools: ToolServer):
    result = await tools.call("search", {"query": "zebra"}, CALLER)
    assert (result.text, result.is_error) == ("Nothing found. Try other words, a name, or no path.", False)


async def test_another_task_sees_nothing_of_it(tools: ToolServer):
    result = await tools.call("search", {"query": "slow sum"}, Caller("task-2", "feature-dev"))
    assert (result.is_error, result.data["code"]) == (True, "not_found")


async def test_a_bad_call_comes_back_as_an_error(tools: ToolServer):
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("search", {}, "query: Field required."),
        ("search", {"query": 7}, "query: Input should be a valid string."),
        ("search", {"query": "x", "collection": "other"}, "Collection 'other' is not indexed."),
        ("search", {"query": "x", "where": "other"}, "where: Extra inputs are not permitted."),
        ("outline", {"path": "../a.py"}, "No indexed file '../a.py' in collection 'of-task-1'."),
        ("erase", {}, "There is no tool 'erase'."),
    ]
    for name, arguments, message in calls:
        result = await tools.call(name, arguments, CALLER)
        assert (result.text, result.is_error) == (message, True)


def test_every_tool_describes_itself(service: ContextService):
    listed = ContextTools(service, find_collection).list_tools()
    assert [tool.name for tool in listed] == ["search", "symbol", "related", "outline", "repo_map", "read_range"]
    for tool in listed:
        assert tool.is_read_only
        assert all(field.get("description") for field in tool.input_schema["properties"].values())


async def test_a_symbol_is_found_where_it_is_defined_and_nowhere_else(tools: ToolServer):
    found = await tools.call("symbol", {"name": "slow_sum"}, CALLER)
    assert [(hit["path"], hit["start_line"]) for hit in found.data["hits"]] == [("a.py", 1)]
    assert (await tools.call("symbol", {"name": "slow"}, CALLER)).data["hits"] == []


async def test_lines_are_numbered_and_bounded(tools: ToolServer):
    lines = await tools.call("read_range", {"path": "a.py", "first": 2, "last": 99}, CALLER)
    assert lines.text == "2 def slow_sum(a):\n3     return sum(a)"
    wrong = await tools.call("read_range", {"path": "a.py", "first": 9, "last": 9}, CALLER)
    assert (wrong.text, wrong.is_error) == ("Lines 9 to 9 of 'a.py', which has 3.", True)


async def test_the_map_names_files_and_what_they_define(tools: ToolServer):
    assert (await tools.call("repo_map", {}, CALLER)).text == "a.py  slow_sum:1"
