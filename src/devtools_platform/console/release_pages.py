"""Releases and rollouts: what is signed, what runs in which colour of which host, and the way there and back."""

from collections.abc import Sequence
from typing import Any, get_args

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.delivery import RolloutKind
from devtools_platform.console.pages import Door, Form, Pages, get, name_of, post, read_form
from devtools_platform.core.errors import BadInput, DevToolsError

MAX_SEQ_DIGITS = 9
VERBS: dict[RolloutKind, str] = {
    "deploy": "Deploy",
    "stage": "Stage",
    "rollback": "Roll back to",
    "promote": "Promote",
    "abort": "Abort",
}


class ReleasePages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/releases", self.releases),
            get("/rollouts/plan", self.plan),
            get("/rollouts/{id_}", self.rollout),
            post("/rollouts", self.start),
        )

    async def releases(self, request: Request) -> Response:
        desk = self.stack.delivery
        return await self.show(
            request,
            "releases.html",
            is_set_up=desk.is_set_up,
            delivered=await desk.look() if desk.is_set_up else None,
            rollouts=desk.rollouts(),
        )

    async def plan(self, request: Request, kind: str = "", seq: str = "") -> Response:
        """What would be done, to be confirmed by an operator."""
        chosen, number = _read_kind(kind), _read_seq(seq)
        try:
            plan, error = await self.stack.delivery.plan(chosen, number), None
        except DevToolsError as refused:
            plan, error = None, refused
        return await self._confirm(request, chosen, number, plan=plan, error=error)

    async def start(self, request: Request) -> Response:
        form: Form = await read_form(request)
        kind, seq = _read_kind(form.get("kind", "")), _read_seq(form.get("seq", ""))
        if not form.get("plan"):
            raise BadInput("The form names no plan.", hint="Look at the plan first; its page has the button.")
        id_ = await self.stack.delivery.start(kind, seq, form["plan"], name_of(request))
        return RedirectResponse(f"/rollouts/{id_}", status_code=303)

    async def rollout(self, request: Request, id_: str) -> Response:
        return await self.show(request, "rollout.html", rollout=self.stack.delivery.rollout(id_), verbs=VERBS)

    async def _confirm(self, request: Request, kind: RolloutKind, seq: int | None, **values: Any) -> Response:
        error: DevToolsError | None = values["error"]
        status = error.status if error else 200
        return await self.show(
            request, "rollout_plan.html", status=status, kind=kind, seq=seq, verb=VERBS[kind], **values
        )


def _read_kind(text: str) -> RolloutKind:
    for known in get_args(RolloutKind):
        if text == known:
            return known
    raise BadInput(f"{text!r} is nothing one does with a release.", hint="Go back to Releases.")


def _read_seq(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > MAX_SEQ_DIGITS:
        raise BadInput(f"{text!r} is no release's number.", hint="Go back to Releases.")
    return int(text)
