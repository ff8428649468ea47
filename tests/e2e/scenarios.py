"""What the scripted model says in the end-to-end tests. The request's words choose the script."""

from typing import Any

LONG_S = 977
"""A number that stands in no other command line."""
APPROVE = {"output": {"verdict": "approve", "remark": "Does what was asked.", "findings": []}}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"calls": [{"tool": tool, "arguments": arguments}]}


def done(summary: str, message: str) -> dict[str, Any]:
    return {"output": {"outcome": "done", "summary": summary, "commit_message": message}}


def edit(path: str, old: str, new: str) -> dict[str, Any]:
    return call("workspace_edit_file", path=path, old=old, new=new)


FIX = edit("shop/prices.py", "if total > DISCOUNT_FROM:", "if total >= DISCOUNT_FROM:")


def effect(agent: str) -> dict[str, Any]:
    """An effect that shows how often it was had: one line more each time."""
    return call("workspace_run_command", command=["python3", "-c", f"open('effects.log', 'a').write('{agent}\\n')"])


def worker_of_six(agent: str) -> dict[str, Any]:
    return {
        "agent": agent,
        "when": "SIX AGENTS",
        "turns": [effect(agent), done(f"{agent} did its share.", "Six did it")],
    }


SIX: list[dict[str, Any]] = [
    {
        "agent": "orchestrator",
        "when": "SIX AGENTS",
        "turns": [
            {
                "output": {
                    "steps": [
                        {"agent": agent, "goal": f"SIX AGENTS: the share of {agent}."}
                        for agent in ("infrastructure", "cicd", "documentation", "feature-dev")
                    ]
                }
            }
        ],
    },
    *(worker_of_six(agent) for agent in ("infrastructure", "cicd")),
    {
        "agent": "documentation",
        "when": "SIX AGENTS",
        # It may run nothing; done twice, this edit leaves two lines.
        "turns": [edit("README.md", "\n\nPrices", "\nDocumented.\n\nPrices"), done("It did its share.", "Six did it")],
    },
    {
        "agent": "feature-dev",
        "when": "SIX AGENTS",
        "turns": [effect("feature-dev"), FIX, done("feature-dev did its share.", "Six did it")],
    },
]


def plan(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"output": {"steps": list(steps)}}


AT_ONCE: list[dict[str, Any]] = [
    {
        "agent": "orchestrator",
        "when": "AT ONCE",
        "turns": [
            plan(
                {
                    "agent": "infrastructure",
                    "goal": "AT ONCE: a container file.",
                    "needs": [],
                    "acceptance": "It is there.",
                },
                {"agent": "documentation", "goal": "AT ONCE: say so in the README.", "needs": []},
                {"agent": "feature-dev", "goal": "AT ONCE: mend the discount.", "needs": [1, 2]},
            )
        ],
    },
    {
        "agent": "infrastructure",
        "when": "AT ONCE",
        "turns": [
            call(
                "workspace_write_file",
                path="Dockerfile",
                content='FROM python:3.12-slim\nWORKDIR /app\nCOPY . .\nUSER 1000\nCMD ["python", "-m", "shop"]\n',
            ),
            done("A container file.", "Add a container file"),
        ],
    },
    {
        "agent": "documentation",
        "when": "AT ONCE",
        "turns": [edit("README.md", "# shop\n", "# shop\n\nIt runs in a container.\n"), done("Said so.", "Say so")],
    },
    {
        "agent": "feature-dev",
        "when": "AT ONCE",
        # The last step sees what both others did.
        "turns": [call("workspace_read_file", path="Dockerfile"), FIX, done("Mended.", "Mend the discount")],
    },
    {
        "agent": "orchestrator",
        "when": "KILLED TOGETHER",
        "turns": [
            plan(
                {"agent": "infrastructure", "goal": "KILLED TOGETHER: one.", "needs": []},
                {"agent": "documentation", "goal": "KILLED TOGETHER: two.", "needs": []},
                {"agent": "feature-dev", "goal": "KILLED TOGETHER: three.", "needs": [1, 2]},
            )
        ],
    },
    # Done twice, either edit leaves its line twice.
    *(
        {
            "agent": agent,
            "when": "KILLED TOGETHER",
            "turns": [
                edit(path, f"{first}\n", f"{first}\n{line}\n"),
                call("workspace_read_file", path=path),
                done(f"{agent} did its share.", "Two at once"),
            ],
        }
        for agent, path, first, line in (
            ("infrastructure", "shop/__init__.py", '"""A small shop."""', "# packed"),
            ("documentation", "README.md", "# shop", "Documented."),
        )
    ),
    {"agent": "feature-dev", "when": "KILLED TOGETHER", "turns": [FIX, done("Mended.", "Mend the discount")]},
    {
        "agent": "orchestrator",
        "when": "IN EACH OTHER'S WAY",
        "turns": [
            plan(
                {"agent": "documentation", "goal": "IN EACH OTHER'S WAY: one.", "needs": []},
                {"agent": "feature-dev", "goal": "IN EACH OTHER'S WAY: two.", "needs": []},
            )
        ],
    },
    {
        "agent": "documentation",
        "when": "IN EACH OTHER'S WAY",
        "turns": [edit("README.md", "# shop\n", "# shop of one\n"), done("One.", "One")],
    },
    {
        "agent": "feature-dev",
        "when": "same places at the same time",
        "turns": [edit("README.md", "# shop of one\n", "# shop of one and two\n"), done("Two.", "Two")],
    },
    {
        "agent": "feature-dev",
        "when": "IN EACH OTHER'S WAY",
        "turns": [FIX, edit("README.md", "# shop\n", "# shop of two\n"), done("Two.", "Two")],
    },
    {
        "agent": "orchestrator",
        "when": "failed_plan",
        "turns": [plan({"agent": "feature-dev", "goal": "An order of exactly 100 gets the discount."})],
    },
    {
        "agent": "orchestrator",
        "when": "FIRST PLAN IS NO GOOD",
        "turns": [plan({"agent": "infrastructure", "goal": "FIRST PLAN IS NO GOOD"})],
    },
    {
        "agent": "infrastructure",
        "when": "FIRST PLAN IS NO GOOD",
        "turns": [{"output": {"outcome": "cannot", "summary": "This is no matter of containers."}}],
    },
    {
        "agent": "orchestrator",
        "when": "Answer: The discount",
        "turns": [plan({"agent": "feature-dev", "goal": "An order of exactly 100 gets the discount."})],
    },
    {
        "agent": "orchestrator",
        "when": "Make it right",
        "turns": [{"output": {"question": "What is wrong: the discount or the prices?"}}],
    },
]

RULES: list[dict[str, Any]] = [
    *SIX,
    *AT_ONCE,
    {
        "agent": "feature-dev",
        "when": "exactly 100",
        "turns": [
            call("context_search", query="order discount total"),
            call("workspace_read_file", path="shop/prices.py"),
            FIX,
            call("workspace_run_tests"),
            done("The discount starts at exactly 100.00.", "Give the discount from exactly 100.00"),
        ],
    },
    {
        "agent": "feature-dev",
        "when": "WRONG",
        "turns": [
            edit("shop/prices.py", "if total > DISCOUNT_FROM:", "if total > DISCOUNT_FROM + 1:"),
            done("Changed the limit.", "Change the limit"),
        ],
    },
    {
        "agent": "feature-dev",
        "when": "report command",
        "turns": [
            FIX,
            call(
                "workspace_write_file",
                path="shop/report.py",
                content='"""Reports."""\n\nimport subprocess\n\n\ndef print_report(name: str) -> None:\n'
                '    subprocess.call(f"lpr reports/{name}", shell=True)\n',
            ),
            done("Added a report command.", "Add a report command"),
        ],
    },
    {
        "agent": "feature-dev",
        "when": "bend the test",
        "turns": [
            edit("tests/test_prices.py", "order_total([(5_000, 2)]), 9_000)", "order_total([(5_000, 2)]), 10_000)"),
            done("The test asked for the wrong thing.", "Mend the test"),
        ],
    },
    {
        "agent": "feature-dev",
        "when": "ask me first",
        "turns": [
            call("workspace_run_command", command=["python3", "-c", "open('asked.txt', 'a').write('once\\n')"]),
            FIX,
            call("workspace_read_file", path="shop/prices.py"),
            done("The discount starts at exactly 100.00.", "Give the discount from exactly 100.00"),
        ],
    },
    {
        "agent": "feature-dev",
        "when": "takes long",
        "turns": [
            call(
                "workspace_run_command",
                command=["python3", "-c", f"import time; open('began.txt', 'a').write('x'); time.sleep({LONG_S})"],
            ),
            FIX,
            done("The discount starts at exactly 100.00.", "Give the discount from exactly 100.00"),
        ],
    },
    {"agent": "feature-dev", "when": "nothing to do", "turns": [done("Nothing to change.", "")]},
    {
        "agent": "feature-dev",
        "when": "cannot",
        "turns": [{"output": {"outcome": "cannot", "summary": "The price list is not in this repository."}}],
    },
    {
        "agent": "feature-dev",
        "when": "reach outside",
        "turns": [
            call("workspace_read_file", path="../../token"),
            call("workspace_write_file", path=".git/hooks/post-commit", content="#!/bin/sh\ntouch /tmp/owned\n"),
            call("workspace_run_command", command=["cat", "/etc/shadow"]),
            call("workspace_no_such_tool"),
            FIX,
            done("Fixed.", "Fix the discount"),
        ],
    },
    # As the pages say it: after all that say more.
    {"agent": "feature-dev", "when": "Fix the failing test", "turns": [FIX, done("Fixed.", "Fix the discount")]},
    {
        "agent": "orchestrator",
        "turns": [
            call("workspace_list_files"),
            {
                "output": {
                    "steps": [
                        {"agent": "feature-dev", "goal": "An order of exactly 100 gets the discount."},
                        {"agent": "documentation", "goal": "Say in the README from when the discount is given."},
                    ]
                }
            },
        ],
    },
    {
        "agent": "documentation",
        "turns": [
            edit("README.md", "# shop\n", "# shop\n\nOrders from 100.00 get a discount of 10 percent.\n"),
            done("The README names the limit.", "Document the discount"),
        ],
    },
    {
        "agent": "code-review",
        "when": "REVIEWER OBJECTS",
        "turns": [
            {
                "output": {
                    "verdict": "request_changes",
                    "remark": "Refunds still use the old limit.",
                    "findings": [
                        {"path": "shop/prices.py", "line": 20, "severity": "medium", "message": "Refunds differ."}
                    ],
                }
            }
        ],
    },
    {
        "agent": "cicd",
        "when": "pipeline is red",
        "turns": [
            call("ci_runs", only_failed=True),
            call("ci_job_log", run=501),
            call("workspace_scaffold", kind="github-pipeline"),
            call("ci_rerun_failed", run=501),
            done("`make` has no target 'tset': the workflow runs the tests now.", "Run the tests in the workflow"),
        ],
    },
    {"agent": "cicd", "when": "CHAT", "turns": [{"text": "I write pipelines."}]},
    {"agent": "code-review", "turns": [APPROVE]},
]
