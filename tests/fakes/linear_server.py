"""Linear's GraphQL and OAuth as far as this stack uses them: every document and answer goes through its own schema."""

import functools
import json
import secrets
import time
import uuid
from itertools import count
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devtools_platform.integrations.signatures import sign
from fakes.service import CONTRACTS, FakeService

SECRET = "linear-webhook-secret"
DESCRIPTION = "Fix the failing test: an order of exactly 100 must get the discount."
CLIENT_ID, CLIENT_SECRET = "linear-client", "linear-client-secret"
STATES = [
    {"id": "state-todo", "name": "Todo", "type": "unstarted", "position": 1.0},
    {"id": "state-progress", "name": "In Progress", "type": "started", "position": 2.0},
    {"id": "state-review", "name": "In Review", "type": "started", "position": 3.0},
    {"id": "state-done", "name": "Done", "type": "completed", "position": 4.0},
]


@functools.cache
def schema() -> Any:
    """Linear's schema; None where it is absent. Two seconds, once a process."""
    file = CONTRACTS / "linear.schema.graphql"
    if not file.is_file():
        return None
    from graphql import build_schema

    return build_schema(file.read_text(), assume_valid=True)


def find_faults(document: str) -> list[str]:
    """What Linear's schema has against a document."""
    from graphql import parse, validate

    return [error.message for error in validate(schema(), parse(document))]


class FakeLinear(FakeService):
    def __init__(self, port: int = 0, *, lifetime_s: float = 86400.0) -> None:
        super().__init__(port)
        self.lifetime_s = lifetime_s
        self.activities: list[dict[str, Any]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.issues: dict[str, str] = {}
        self.access: dict[str, float] = {"lin_api_" + "k" * 40: time.time() + 1e6}
        self.refresh_token = ""
        self.refreshes = 0
        self.codes = {"good-code"}
        schema()  # now, not in the middle of a test's first ten seconds

    @property
    def api_key(self) -> str:
        return next(iter(self.access))

    def expire_tokens(self) -> None:
        self.access = {}

    def routes(self) -> list[Route]:
        return [
            Route("/graphql", self._graphql, methods=["POST"]),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/fake/state", self._state, methods=["GET"]),
        ]

    async def _state(self, _: Request) -> Response:
        names = ("activities", "sessions", "issues", "breaches")
        return JSONResponse({name: getattr(self, name) for name in names})

    async def _token(self, request: Request) -> Response:
        body = await request.body()
        await self.note(request, b"")
        form = dict(pair.split("=", 1) for pair in body.decode().split("&"))
        return await self.serve(request, "/oauth/token", lambda: self._grant(form))

    def _grant(self, form: dict[str, str]) -> Response:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form["grant_type"] == "refresh_token":
            if not self.refresh_token or form["refresh_token"] != self.refresh_token:  # rotated: the old one is dead
                return JSONResponse({"error": "invalid_grant"}, 400)
            self.refreshes += 1
        elif form["code"] not in self.codes:
            return JSONResponse({"error": "invalid_grant"}, 400)
        self.codes.discard(form.get("code", ""))
        self.refresh_token = f"lin_refresh_{secrets.token_hex(20)}"
        access = f"lin_oauth_{secrets.token_hex(20)}"
        self.access[access] = time.time() + self.lifetime_s
        return JSONResponse(
            {
                "access_token": access,
                "refresh_token": self.refresh_token,
                "token_type": "Bearer",
                "expires_in": int(self.lifetime_s),
                "scope": "read write app:assignable app:mentionable",
            }
        )

    async def _graphql(self, request: Request) -> Response:
        data = await self.note(request, await request.body())
        name = data["query"].split("(")[0].split()[-1]
        return await self.serve(request, name, lambda: self._answer(request, data))

    def _answer(self, request: Request, data: Any) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.access.get(token, 0.0) < time.time():
            return _error("Authentication required", "AUTHENTICATION_ERROR", 401)
        resolvers = {
            "agentActivityCreate": self._create_activity,
            "agentActivity": self._find_activity,
            "agentSessionUpdate": self._update_session,
            "team": lambda **_: {"states": {"nodes": STATES}},
            "issueUpdate": self._update_issue,
        }
        if schema() is None:
            return _without_schema(data, resolvers)
        from graphql import graphql_sync

        roots = {name: _resolver(call) for name, call in resolvers.items()}
        result = graphql_sync(schema(), data["query"], roots, variable_values=data["variables"])
        if result.errors:
            messages = [error.message for error in result.errors]
            # The fake's own "no" is an answer; what graphql-core finds is a breach of the contract.
            self.breaches += [m for m, e in zip(messages, result.errors, strict=True) if e.original_error is None]
            return _error("; ".join(messages), "INPUT_ERROR", 400)
        return JSONResponse({"data": result.data})

    def _create_activity(self, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - Linear's name
        if any(activity["id"] == input["id"] for activity in self.activities):
            raise ValueError("Entity with this id already exists")
        if uuid.UUID(input["id"]).version != 4:
            raise ValueError("id must be a UUID v4")
        kind = input["content"]["type"]
        required = {"thought": {"body"}, "elicitation": {"body"}, "response": {"body"}, "error": {"body"},
                    "action": {"action", "parameter"}}[kind]  # fmt: skip
        if not required <= set(input["content"]):
            raise ValueError(f"{kind} needs {required}")
        self.activities.append({**input, "at": time.monotonic()})
        status = {"elicitation": "awaitingInput", "response": "complete", "error": "error"}.get(kind, "active")
        self.sessions.setdefault(input["agentSessionId"], {})["status"] = status
        return {"success": True, "agentActivity": {"id": input["id"]}}

    def _find_activity(self, id: str) -> dict[str, Any]:  # noqa: A002 - Linear's name
        found = [activity for activity in self.activities if activity["id"] == id]
        if not found:
            raise ValueError("Entity not found: AgentActivity")
        return {"id": id}

    def _update_session(self, id: str, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - Linear's names
        self.sessions.setdefault(id, {}).update(input)
        return {"success": True}

    def _update_issue(self, id: str, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - Linear's names
        self.issues[id] = input["stateId"]
        return {"success": True}

    def contents(self, session: str, kind: str) -> list[dict[str, Any]]:
        """The activities of one kind in a session, in order."""
        of_session = (a for a in self.activities if a["agentSessionId"] == session)
        return [activity for activity in of_session if activity["content"]["type"] == kind]


_ids = count(1)


def session_event(session: str, *, action: str = "created", text: str = "", prompt: str = "",
                  signal: str | None = None, team: str = "ENG",
                  description: str | None = None) -> dict[str, Any]:  # fmt: skip
    """The payload of an AgentSessionEvent, in the shape of the schema's `AgentSessionEventWebhookPayload`."""
    at = "2026-11-25T12:00:00.000Z"
    user = {"id": "user-ann", "name": "Ann", "email": "ann@example.com", "url": "https://linear.app/acme/ann"}
    issue = {
        "id": f"issue-{session}", "identifier": "ENG-7", "title": text or "Orders of exactly 100",
        "description": DESCRIPTION if description is None else description,
        "teamId": "team-eng", "team": {"id": "team-eng", "key": team, "name": "Engineering"},
        "url": "https://linear.app/acme/issue/ENG-7",
    }  # fmt: skip
    payload: dict[str, Any] = {
        "type": "AgentSessionEvent", "action": action, "createdAt": at, "organizationId": "org-acme",
        "oauthClientId": CLIENT_ID, "appUserId": "app-user", "webhookId": "hook-1",
        "webhookTimestamp": int(time.time() * 1000),
        "agentSession": {
            "id": session, "createdAt": at, "updatedAt": at, "organizationId": "org-acme",
            "appUserId": "app-user", "status": "pending", "type": "commentThread",
            "issueId": issue["id"], "issue": issue, "creatorId": "user-ann", "creator": user,
        },
    }  # fmt: skip
    if action == "created":
        payload["promptContext"] = "<issue identifier='ENG-7'/>"
    if action == "prompted":
        payload["agentActivity"] = {
            "id": f"activity-{next(_ids)}-{session}", "agentSessionId": session, "createdAt": at,
            "updatedAt": at, "content": {"type": "prompt", "body": prompt}, "userId": "user-ann", "user": user,
            **({"signal": signal} if signal else {}),
        }  # fmt: skip
    return payload


def signed(body: bytes, delivery: str = "", secret: str = SECRET) -> dict[str, str]:
    """The headers of a webhook."""
    id_ = delivery or str(uuid.uuid4())
    return {"Linear-Signature": sign(secret, body), "Linear-Delivery": id_, "Content-Type": "application/json"}


def _resolver(call: Any) -> Any:
    return lambda _info, **arguments: call(**arguments)


def _without_schema(data: Any, resolvers: Any) -> Response:
    name = next(name for name in resolvers if f"{name}(" in data["query"])
    arguments = dict(data["variables"])
    if name == "team":
        arguments = {}
    try:
        return JSONResponse({"data": {name: resolvers[name](**arguments)}})
    except ValueError as error:
        return _error(str(error), "INPUT_ERROR", 400)


def _error(message: str, code: str, status: int) -> Response:
    return JSONResponse({"errors": [{"message": message, "extensions": {"code": code}}]}, status)


def to_bytes(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload).encode()
