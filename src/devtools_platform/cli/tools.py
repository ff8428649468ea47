"""`dev-tools tools` and `dev-tools token`: what agents can call, what waits for approval, and who may come in."""

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.text import Text

from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.home import Home
from devtools_platform.cli import sign_in
from devtools_platform.cli.output import out, print_json
from devtools_platform.cli.stack import DataDir, stack_settings
from devtools_platform.core.errors import BadInput, Forbidden
from devtools_platform.core.tools import APPROVAL_REQUIRED

app = typer.Typer(no_args_is_help=True, help="Tools, and the servers they come from.")
app.command("login")(sign_in.login)
app.command("logout")(sign_in.logout)
token_app = typer.Typer(no_args_is_help=True, help="Tokens for people and managed agents.")
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _send(data_dir: Any, method: str, path: str, **more: Any) -> Any:
    rest = GatewayRest.of(Home.of(stack_settings(data_dir)))
    return asyncio.run(rest.send(method, path, **more))


def _line(name: str, facts: str, text: str) -> None:
    out.print(Text.assemble((f"{name:<44} ", "bold"), (f"{facts:<10} ", "cyan"), text.strip().partition("\n")[0][:90]))


def _show_tools(tools: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(tools)
        return
    for tool in tools:
        _line(tool["name"], tool["decision"], tool["description"])


@app.command("list")
def list_tools(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every tool that is not in quarantine, and what the catalogue decides about it."""
    tools = _send(data_dir, "GET", "/tools")
    _show_tools(tools, as_json=as_json)


@app.command("search")
def search(
    words: Annotated[str, typer.Argument(help="What you want to do, in plain words.")],
    limit: Annotated[int, typer.Option(min=1, max=50)] = 5,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The tools that fit best."""
    tools = _send(data_dir, "GET", "/tools/search", params={"q": words, "limit": limit})
    _show_tools(tools, as_json=as_json)


@app.command("call")
def call(
    name: Annotated[str, typer.Argument(help="Its full name: SERVER_TOOL.")],
    arguments: Annotated[str, typer.Argument(help="Its arguments as a JSON object.")] = "{}",
    yes: Annotated[bool, typer.Option("--yes", help="Also when it changes something; do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Call one tool as the operator. What changes something is asked about first."""
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise BadInput(
            f"The arguments are no JSON: {error}.", hint="""dev-tools tools call NAME '{"key": "value"}'"""
        ) from None
    server, _, tool = name.partition("_")
    path, body = f"/tools/{server}/{tool}", {"arguments": given, "is_confirmed": yes}
    result = _send(data_dir, "POST", path, json=body)
    if result["data"].get("code") == APPROVAL_REQUIRED:
        if as_json or not typer.confirm(f"{name} changes something outside a workspace. Call it?"):
            raise Forbidden(f"{name} was not called: it changes something.", hint="Say --yes if you mean it.")
        result = _send(data_dir, "POST", path, json={**body, "is_confirmed": True})
    if as_json:
        print_json(result)
    else:
        typer.echo(result["text"])
    if result["is_error"]:
        raise typer.Exit(1)


@app.command("approve")
def approve(
    server: Annotated[str, typer.Argument(help="A server of the catalogue.")],
    tool: Annotated[list[str] | None, typer.Option(help="Only this tool; may be repeated.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve what was shown, without asking.")] = False,
    accept_findings: Annotated[
        bool, typer.Option("--accept-findings", help="Also approve tools the scan has found something in.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a server's tools say, and pin it in mcp.lock."""
    held = _send(data_dir, "GET", "/quarantine", params={"server": server})
    chosen = [q for q in held if not tool or q["tool"] in tool]
    if not as_json:
        _show_held(chosen)
    if not chosen or not (yes or (not as_json and typer.confirm(f"Approve these {len(chosen)} tools?"))):
        if as_json:
            print_json(chosen)
        return
    fine = [q for q in chosen if accept_findings or not q["findings"]]
    body = {"tools": {q["tool"]: q["digest"] for q in fine}, "accept_findings": accept_findings}
    result = _send(data_dir, "POST", f"/servers/{server}/approve", json=body)
    if as_json:
        print_json(result)
        return
    out.print(f"{len(result['approved'])} tools of {server} are pinned in {result['lock']}.")
    if left := len(chosen) - len(fine):
        out.print(f"{left} tools wait: the scan found something. Look at them, then say --accept-findings.")


def _show_held(held: list[dict[str, Any]]) -> None:
    if not held:
        out.print("Nothing is in quarantine.")
    for q in held:
        _line(q["name"], "", q["description"])
        out.print(Text(f"    {q['reason']}", style="yellow"))
        for finding in q["findings"]:
            out.print(Text(f"    ! {finding['where']}: {finding['what']}", style="bold red"))


@app.command("doctor")
def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every server's real state, and why one that does not work does not."""
    servers = _send(data_dir, "GET", "/servers")
    if as_json:
        print_json(servers)
    else:
        for s in servers:
            held = f", {s['quarantined']} in quarantine" if s["quarantined"] else ""
            words = f"{s['tools']} tools{held}" + (f": {s['reason']}" if s.get("reason") else "")
            _line(s["name"], s["state"], words)
    if any(s["state"] != "ready" for s in servers):
        raise typer.Exit(1)


@token_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[
        list[str],
        typer.Option(help="tools:SERVER_TOOL, context:COLLECTION or agents:NAME, `*` allowed; may be repeated."),
    ],
    agent: Annotated[str | None, typer.Option(help="Also bound by this agent's policy.")] = None,
    task: Annotated[str | None, typer.Option(help="The task whose workspace it works in.")] = None,
    days: Annotated[float, typer.Option(help="How long it lasts.")] = 90,
    per_minute: Annotated[int | None, typer.Option(help="Calls it may make in a minute.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is shown once and stored as a hash."""
    body = {"name": name, "scopes": scope, "agent": agent, "task_id": task, "days": days, "per_minute": per_minute}
    _show_token(_send(data_dir, "POST", "/tokens", json=body), as_json=as_json)


@token_app.command("list")
def list_tokens(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All tokens: who, what for, whether still valid."""
    tokens = _send(data_dir, "GET", "/tokens")
    if as_json:
        print_json(tokens)
        return
    for token in tokens:
        state = "valid" if token["is_valid"] else "ended"
        _line(f"{token['id']}  {token['name']}", state, " ".join(token["scopes"]))


@token_app.command("revoke")
def revoke_token(id_: Annotated[str, typer.Argument(metavar="ID")], data_dir: DataDir = None) -> None:
    """End a token now."""
    token = _send(data_dir, "DELETE", f"/tokens/{id_}")
    out.print(f"The token {token['name']!r} has ended.")


@token_app.command("rotate")
def rotate_token(
    id_: Annotated[str, typer.Argument(metavar="ID")],
    overlap: Annotated[float, typer.Option(min=0, max=720, help="Hours the old token counts on.")] = 0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The same rights under a new token; the old one ends now, or after the overlap."""
    made = _send(data_dir, "POST", f"/tokens/{id_}/rotate", params={"overlap_s": overlap * 3600})
    _show_token(made, as_json=as_json)


def _show_token(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    typer.echo(made["token"])
    out.print(f"{made['name']!r} ({made['id']}): {' '.join(made['scopes'])}. It is not shown again.")
