"""Asks every address outside that the written pages link to or name: `make links`, weekly in CI. Needs the internet.

Links inside are checked by `tests/docs`. Placeholders (`example.org`, loopback, addresses for documentation) are not
asked, nor is what only answers to who has a key.
"""

import asyncio
import re
import sys
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>|\bhttps?://[^\s)>\"'`|,;{}$]+")
PLACEHOLDER = re.compile(
    r"(^|\.)(example(\.(com|org|net))?|localhost|dev-tools)$|^(127|10|203\.0\.113)\.|^[^.]+$|YOUR|HOST"
)
NEEDS_A_KEY = frozenset({"inference.do-ai.run", "api.linear.app", "api.digitalocean.com"})
TIMEOUT_S = 20.0
AT_ONCE = 8
GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


def find_addresses(pages: Iterable[Path]) -> dict[str, str]:
    """Addresses outside, without their fragments, and the first page that has each."""
    found: dict[str, str] = {}
    for page in pages:
        for match in ADDRESS.finditer(page.read_text()):
            address = (match[1] or match[2] or match[0]).partition("#")[0].rstrip(".:")
            host = urlsplit(address).hostname or ""
            if host not in NEEDS_A_KEY and not PLACEHOLDER.search(host) and "/acme/" not in address:
                found.setdefault(address, page.name)
    return found


async def find_dead(addresses: Iterable[str]) -> dict[str, str]:
    """Why each dead one is dead: it is not there (404, 410), or nobody answers. A refusal (403, 429) is an answer."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(http: httpx2.AsyncClient, address: str) -> str | None:
        async with slots:
            try:
                async with http.stream("GET", address) as response:
                    return f"HTTP {response.status_code}" if response.status_code in GONE else None
            except httpx2.HTTPError as error:
                return f"{type(error).__name__}: {error}"

    async with httpx2.AsyncClient(
        timeout=TIMEOUT_S, follow_redirects=True, headers={"User-Agent": "Mozilla/5.0"}
    ) as http:
        listed = sorted(addresses)
        answers = await asyncio.gather(*(ask(http, address) for address in listed))
    return {address: why for address, why in zip(listed, answers, strict=True) if why is not None}


def main() -> int:
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = find_addresses(page for page in pages if "reference" not in page.parts)
    dead = asyncio.run(find_dead(found))
    lines = [f"{found[address]}: {address}: {why}" for address, why in dead.items()]
    sys.stdout.write("\n".join([*lines, f"{len(found)} addresses, {len(dead)} dead\n"]))
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
