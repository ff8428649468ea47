"""The pages about the stack itself: agents, spend, health, audit, settings."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query, Request
from fastapi.responses import Response

from devtools_platform.console.charts import day_bars, share
from devtools_platform.console.pages import Door, Pages, get

SPANS = (7, 30, 90)
"""Days one can look back on."""
AUDIT_PAGE = 50


class StackPages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/agents", self.agents),
            get("/spend", self.spend),
            get("/checks", self.checks),
            get("/audit", self.audit),
            get("/settings", self.settings),
        )

    async def agents(self, request: Request) -> Response:
        return await self.show(request, "agents.html", agents=await self.stack.stack.agents())

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
