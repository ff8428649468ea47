"""Asking the person at the other end before a call, through their own client (MCP's elicitation).

A person's editor shows the question; what they answer decides. An agent is never asked this way: it would answer
itself. For agents people approve in the state service.
"""

import hashlib
import secrets
import time
from dataclasses import dataclass

from msgspec import Raw

from devtools_platform.core.approvals import MAX_REASON
from devtools_platform.core.redact import redact_text
from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange
from devtools_platform.gateway.mcp.messages import (
    INVALID_PARAMS,
    UNAVAILABLE,
    Params,
    RpcError,
    decode,
    raw,
    read_object,
    read_text,
)

QUESTION = "dev-tools-approve"
"""The name of our question among a call's input requests."""
TICKET = "dev-tools-ask."
KEEP_S = 300.0
MAX_OPEN = 2048
MAX_OPEN_PER_OWNER = 64
SCHEMA = {
    "type": "object",
    "properties": {"approve": {"type": "boolean", "title": "Run it", "description": "Whether the call may be made."}},
    "required": ["approve"],
}


@dataclass(frozen=True)
class _Asked:
    owner: str
    subject: bytes
    expires_at: float


class Confirmations:
    """What people are being asked now, and what they have just agreed to."""

    def __init__(self) -> None:
        self._open: dict[str, _Asked] = {}
        self._agreed: dict[tuple[str, bytes], float] = {}

    async def ask(self, name: str, arguments: bytes, call: Call, exchange: Exchange) -> Raw | bool | None:
        """True: go ahead. False: they said no. A result: it asks, pass it on. None: this client cannot ask.

        Raises `RpcError` for an answer to a question that was not asked, or is no longer open.
        """
        client = exchange.client
        subject = hashlib.sha256(name.encode() + b"\0" + arguments).digest()
        if self._has_agreed(client, subject, call):
            return True
        if "elicitation" not in read_object(client.capabilities):
            return None
        question = _question(name, arguments)
        if client.session:
            answer = await exchange.ask("elicitation/create", question)
            return self._agree(client, subject) if _says_yes(answer) else False
        state = read_text(call.params.get("requestState")) or ""
        if not state.startswith(TICKET):
            return self._put(client, subject, question)
        self._redeem(state, client, subject)
        answers = read_object(call.params.pop("inputResponses", None))
        del call.params["requestState"]
        return self._agree(client, subject) if _says_yes(answers.get(QUESTION)) else False

    def _put(self, client: Client, subject: bytes, question: Params) -> Raw:
        now = time.monotonic()
        self._open = {ticket: asked for ticket, asked in self._open.items() if asked.expires_at > now}
        mine = sum(asked.owner == client.owner for asked in self._open.values())
        if len(self._open) >= MAX_OPEN or mine >= MAX_OPEN_PER_OWNER:
            raise RpcError(UNAVAILABLE, "Too many questions are open already; answer those first.")
        ticket = TICKET + secrets.token_urlsafe(24)
        self._open[ticket] = _Asked(client.owner, subject, now + KEEP_S)
        asked = {QUESTION: {"method": "elicitation/create", "params": question}}
        return raw({"resultType": "input_required", "inputRequests": asked, "requestState": ticket})

    def _redeem(self, ticket: str, client: Client, subject: bytes) -> None:
        """Once, by who was asked, for exactly what was asked."""
        asked = self._open.get(ticket)
        is_good = asked is not None and asked.expires_at > time.monotonic()
        if asked is None or not is_good or (asked.owner, asked.subject) != (client.owner, subject):
            raise RpcError(INVALID_PARAMS, "That question was not asked about this call, or is no longer open.")
        del self._open[ticket]

    def _agree(self, client: Client, subject: bytes) -> bool:
        """Remembered for the further rounds of the same call, where its server asks something itself."""
        now = time.monotonic()
        self._agreed = {key: until for key, until in self._agreed.items() if until > now}
        self._agreed[client.owner, subject] = now + KEEP_S
        return True

    def _has_agreed(self, client: Client, subject: bytes, call: Call) -> bool:
        """Only a call that goes on: a new one with the same arguments is asked about again."""
        state = read_text(call.params.get("requestState"))
        if state is None or state.startswith(TICKET):
            return False
        return self._agreed.get((client.owner, subject), 0.0) > time.monotonic()


def _question(name: str, arguments: bytes) -> Params:
    shown = redact_text(arguments.decode("utf-8", "replace"))[:MAX_REASON] or "{}"
    text = f"May {name} be called? It changes something outside the workspace.\nArguments: {shown}"
    return {"mode": raw("form"), "message": raw(text), "requestedSchema": raw(SCHEMA)}


def _says_yes(answer: Raw | None) -> bool:
    """Accepted, and `approve` is true; anything else is a no."""
    body = read_object(answer)
    content = read_object(body.get("content"))
    return read_text(body.get("action")) == "accept" and "approve" in content and decode(content["approve"]) is True
