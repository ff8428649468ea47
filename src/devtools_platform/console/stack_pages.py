"""The pages about the stack itself: agents, spend, health, audit, settings."""

import secrets
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.charts import day_bars, share
from devtools_platform.console.pages import Door, Pages, get, name_of, post, read_form, session_of
from devtools_platform.core.errors import BadInput, Forbidden

SPANS = (7, 30, 90)
"""Days one can look back on."""
AUDIT_PAGE = 50
MAX_LIMIT_USD = 1_000_000


class StackPages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/agents", self.agents),
            get("/agents/{name}", self.agent),
            post("/agents/{name}/test", self.test_agent),
            get("/spend", self.spend),
            post("/spend/budgets", self.set_limit),
            get("/checks", self.checks),
            get("/audit", self.audit),
            get("/settings", self.settings),
        )

    async def agents(self, request: Request) -> Response:
        return await self.show(request, "agents.html", agents=await self.stack.stack.agents())

    async def agent(self, request: Request, name: str) -> Response:
        return await self.show(request, "agent.html", agent=await self.stack.stack.agent(name), calls=None)

    async def test_agent(self, request: Request, name: str) -> Response:
        await read_form(request)
        agent = await self.stack.stack.agent(name)
        await self.stack.audit.record(name_of(request), "agent.test", f"agent:{name}", {})
        calls = await self.stack.stack.test_agent(name)
        return await self.show(request, "agent.html", agent=agent, calls=calls)

    async def set_limit(self, request: Request) -> Response:
        """An operator raises a limit; to lower one, which may stop tasks, takes an admin."""
        form = await read_form(request)
        usd, was = _read_usd(form.get("limit", "")), float(_read_usd(form.get("was", "")))
        if usd < Decimal(str(was)) and not session_of(request).person.may("admin"):
            raise Forbidden("Lowering a limit needs the role admin.", hint="Ask an admin, or raise it.")
        key, by = form.get("key", ""), name_of(request)
        await self.stack.ledger.set_limit(key, usd, was_usd=was, request=form.get("request", "")[:40], by=by)
        return RedirectResponse("/spend#budgets", status_code=303)

    async def spend(self, request: Request, days: Annotated[int, Query(ge=1, le=366)] = 30) -> Response:
        spending = await self.stack.ledger.spending(days)
        has_prices = bool(spending.total.cost_usd)
        return await self.show(
            request,
            "spend.html",
            spending=spending,
            spans=SPANS,
            by_cost=has_prices,
            bars=day_bars(spending.by_day, by_cost=has_prices),
            share=share,
            budgets=await self.stack.ledger.budgets(),
            prices=await self.stack.ledger.prices(),
            request_key=secrets.token_hex(8),
        )

    async def checks(self, request: Request, doctor: Literal["yes", "no"] = "no") -> Response:
        """`doctor=yes` also runs every check, which asks the model's endpoint and tries the sandbox."""
        return await self.show(
            request,
            "checks.html",
            services=await self.stack.stack.services(),
            workers=await self.stack.stack.workers(),
            checks=await self.stack.stack.examine() if doctor == "yes" else None,
        )

    async def audit(
        self,
        request: Request,
        subject: Annotated[str, Query(max_length=200)] = "",
        before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
        verify: Literal["yes", "no"] = "no",
    ) -> Response:
        wanted = subject.strip() or None
        deeds = await self.stack.audit.list_deeds(subject=wanted, before=before, limit=AUDIT_PAGE)
        return await self.show(
            request,
            "audit.html",
            deeds=deeds,
            subject=subject,
            following=deeds[-1].seq if len(deeds) == AUDIT_PAGE else None,
            chain=await self.stack.audit.verify() if verify == "yes" else None,
        )

    async def settings(self, request: Request) -> Response:
        return await self.show(request, "settings.html", settings=await self.stack.stack.settings())


def _read_usd(text: str) -> Decimal:
    try:
        usd = Decimal(text.strip())
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or not 0 < usd <= MAX_LIMIT_USD or usd != round(usd, 9):
        raise BadInput(f"{text!r} is no limit in US dollars.", hint=f"More than 0, at most {MAX_LIMIT_USD}: 12.50")
    return usd
