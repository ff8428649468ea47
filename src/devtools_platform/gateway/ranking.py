"""Which tools fit a request in plain words: words weighed by field and rarity, with the vocabulary of operations.

People say "VM" where an API says "droplet". A short glossary bridges that; it only ever adds words to a query.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SMALL_WORDS = (
    "a an the of to for in on at by with and or is are be this that it its as from into i me my we our you your "
    "can could please want need would should how do does what which when where there so if then than them their"
)
_STOP = frozenset(_SMALL_WORDS.split())
K1, B = 1.2, 0.6
WEIGHTS = {"name": 3.0, "description": 1.0, "arguments": 0.6, "server": 1.0}
CLOSENESS_WEIGHT = 3.0
"""Of meaning against words, both scaled to 0..1. Fitted with `bench/tool_search_fitting.yaml`."""
ADDED_WEIGHT = 0.6
"""Of a word the glossary adds, against one the person said."""

GLOSSARY: Mapping[str, str] = {
    "vm": "droplet",
    "machine": "droplet",
    "server": "droplet",
    "instance": "droplet",
    "k8s": "kubernetes doks cluster",
    "kubernetes": "doks",
    "registry": "docr",
    "bucket": "spaces",
    "s3": "spaces",
    "storage": "spaces volume",
    "disk": "volume",
    "postgres": "database db cluster",
    "mysql": "database db cluster",
    "redis": "database db cluster valkey",
    "database": "db cluster",
    "dns": "domain record",
    "certificate": "cert ssl tls",
    "ssl": "certificate",
    "lb": "load balancer",
    "balancer": "lb",
    "ip": "reserved address",
    "pr": "pull request",
    "merge": "pull request",
    "ticket": "issue",
    "bug": "issue",
    "task": "issue",
    "story": "issue",
    "sprint": "cycle",
    "iteration": "cycle",
    "epic": "project",
    "milestone": "project",
    "person": "user",
    "teammate": "user",
    "colleague": "user",
    "repo": "repository",
    "code": "file repository",
    "delete": "remove",
    "remove": "delete",
    "kill": "delete",
    "destroy": "delete",
    "drop": "delete",
    "make": "create",
    "add": "create",
    "new": "create",
    "open": "create",
    "spin": "create",
    "provision": "create",
    "change": "update",
    "edit": "update",
    "modify": "update",
    "rename": "update",
    "resize": "resize",
    "show": "get list",
    "see": "get list",
    "find": "search list",
    "look": "get search",
    "list": "list",
    "all": "list",
    "reboot": "restart power cycle",
    "restart": "reboot",
    "rollback": "revert previous",
    "deploy": "deployment app",
    "website": "app site",
    "webpage": "page navigate url fetch",
    "page": "url",
    "browser": "navigate page",
    "download": "fetch get",
    "web": "url fetch",
    "clock": "time",
    "hour": "time",
    "timezone": "time convert",
    "alert": "alerting policy uptime",
    "monitor": "uptime check metrics",
    "backup": "snapshot",
    "image": "snapshot",
    "firewall": "inbound rule",
    "port": "firewall rule",
    "key": "ssh",
    "cost": "billing invoice balance",
    "bill": "invoice balance billing",
    "money": "balance invoice",
    "spend": "billing balance invoice",
    "history": "log commits",
    "changes": "diff",
    "note": "comment",
    "reply": "comment",
    "label": "tag",
    "tag": "label",
    "remember": "entities observations memory create",
    "folder": "directory",
    "directory": "folder",
    "write": "create update file",
    "screenshot": "take screen",
    "function": "functions namespace trigger",
    "serverless": "functions",
    "cdn": "endpoint cache",
    "cache": "cdn purge",
    "log": "logs",
    "team": "members",
}


class Described(Protocol):
    @property
    def full(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def schema(self) -> Any: ...


def spaced(name: str) -> str:
    """A name's words, as people write them."""
    return " ".join(word.lower() for word in _WORD.findall(name))


def words(text: str) -> list[str]:
    """Lower-case words with common endings cut; camelCase and snake_case come apart."""
    return [stem(word.lower()) for word in _WORD.findall(text) if word.lower() not in _STOP]


def stem(word: str) -> str:
    """Enough to bring plurals and verb forms together; not a linguist's."""
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:  # noqa: PLR2004
            word = word[: -len(ending)] + rest
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "lsz":  # noqa: PLR2004 - "planned" -> "plan"
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word  # noqa: PLR2004 - "create" like "creating"


class Index:
    """Tools by their words."""

    def __init__(self, tools: Iterable[Described]) -> None:
        listed = list(tools)
        self._names = [tool.full for tool in listed]
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        fields = [_fields(tool) for tool in listed]
        averages = {f: (sum(len(d[f]) for d in fields) / len(fields) if fields else 1) or 1 for f in WEIGHTS}
        for number, document in enumerate(fields):
            weights: dict[str, float] = defaultdict(float)
            for field_name, content in document.items():
                norm = 1 - B + B * len(content) / averages[field_name]
                for word, count in Counter(content).items():
                    weights[word] += WEIGHTS[field_name] * count / norm
            for word, weight in weights.items():
                self._postings[word].append((number, weight))
        self._idf = {
            word: math.log(1 + (len(fields) - len(found) + 0.5) / (len(found) + 0.5))
            for word, found in self._postings.items()
        }

    def rank(self, query: str, limit: int, closeness: Mapping[str, float] | None = None) -> Sequence[str]:
        """Full names, the best first. By words alone none that shares no word with the query.

        With `closeness` (full name -> cosine) both are scaled to 0..1 and added, see `CLOSENESS_WEIGHT`.
        """
        scores = self._score(query)
        if closeness is not None:
            scores = _blend(scores, [closeness[name] for name in self._names])
        best = sorted(scores, key=lambda number: (-scores[number], self._names[number]))
        return [self._names[number] for number in best[:limit]]

    def _score(self, query: str) -> dict[int, float]:
        scores: dict[int, float] = defaultdict(float)
        for word, importance in expand(query).items():
            for number, weight in self._postings.get(word, ()):
                scores[number] += importance * self._idf[word] * weight * (K1 + 1) / (weight + K1)
        return scores


def _blend(scores: Mapping[int, float], closeness: Sequence[float]) -> dict[int, float]:
    most = max(scores.values(), default=0.0) or 1.0
    low, high = min(closeness), max(closeness)
    width = (high - low) or 1.0
    return {
        n: scores.get(n, 0.0) / most + CLOSENESS_WEIGHT * (value - low) / width for n, value in enumerate(closeness)
    }


def expand(query: str) -> dict[str, float]:
    """The query's words and what the glossary adds, with their importance."""
    added = {stem(meant): ADDED_WEIGHT for meant in _meant(query)}
    return {**added, **dict.fromkeys(words(query), 1.0)}


def in_our_words(query: str) -> str:
    """The query followed by what the glossary adds."""
    return " ".join((query, *_meant(query)))


def _meant(query: str) -> list[str]:
    lower = [word.lower() for word in _WORD.findall(query)]
    return [w for word in lower for w in (GLOSSARY.get(word) or GLOSSARY.get(word.removesuffix("s")) or "").split()]


def _fields(tool: Described) -> dict[str, list[str]]:
    schema: Any = tool.schema
    properties: Any = schema.get("properties") if isinstance(schema, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    arguments = " ".join(properties) if isinstance(properties, dict) else ""  # pyright: ignore[reportUnknownArgumentType]
    name = tool.full.removeprefix(f"{tool.server}_")
    return {
        "name": words(name),
        "description": words(tool.description[:1500]),
        "arguments": words(arguments),
        "server": words(tool.server),
    }
