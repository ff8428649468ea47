"""What a task needs of the model and the machine, asked before any work is done."""

import asyncio
from dataclasses import dataclass

from devtools_platform.app.runtimes import Runtimes
from devtools_platform.app.sandbox import sandbox_of
from devtools_platform.config import Settings
from devtools_platform.core.errors import NoSandbox
from devtools_platform.core.tasks import Degradation
from devtools_platform.kit.sandbox import find_sandbox


@dataclass(frozen=True)
class StackPreflight:
    settings: Settings
    runtimes: Runtimes

    async def check_model(self) -> None:
        await self.runtimes.check_model()

    async def list_degradations(self) -> list[Degradation]:
        """A sandbox without its second layer. None at all is for admission to refuse, or was waived."""
        try:
            info = await asyncio.to_thread(find_sandbox, sandbox_of(self.settings))
        except NoSandbox:
            return []
        if info.landlock is None:
            why = f"No Landlock inside it; {info.kind} alone isolates."
            return [Degradation(what="one sandbox layer", why=why)]
        return []
