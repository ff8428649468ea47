"""The official API descriptions, as judges: what a fake is asked and what it answers must both be as they say.

They stand beside the repository (`../shared/contracts`) and are no part of it; without them a fake judges nothing
and the tests that need the judgement skip.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from openapi_core import Config, OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.testing import MockRequest, MockResponse

FOLDER = Path(__file__).parents[3] / "shared" / "contracts"
DIGITALOCEAN = "digitalocean.openapi.json"
needs_digitalocean = pytest.mark.skipif(
    not (FOLDER / DIGITALOCEAN).is_file(), reason="the official contracts are not beside the repository"
)


@dataclass
class Contract:
    """One description, and everything that was found to be against it."""

    openapi: OpenAPI
    violations: list[str] = field(default_factory=list[str])
    undescribed: set[str] = field(default_factory=set[str])
    """Requests the description does not hold: it is pruned."""
    judged: set[str] = field(default_factory=set[str])
    """Operations whose request and response were both judged."""

    def check(
        self,
        host: str,
        method: str,
        path: str,
        *,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        status: int,
        response_headers: Mapping[str, str],
        response: bytes,
    ) -> None:
        """Judge one exchange."""
        request = MockRequest(
            host,
            method.lower(),
            path,
            args=_arguments(query),
            headers=dict(headers),
            data=body or None,
            content_type=headers.get("content-type", "application/json").partition(";")[0],
        )
        what = f"{method} {path}"
        try:
            self.openapi.validate_request(request)
        except PathError:
            self.undescribed.add(what)
            return
        except OpenAPIError as error:
            self.violations.append(f"{what}: request: {_words(error)}; sent {body[:300]!r} {query!r}")
        content_type = response_headers.get("content-type", "application/json").partition(";")[0]
        answer = MockResponse(response, status, headers=dict(response_headers), content_type=content_type)
        try:
            self.openapi.validate_response(request, answer)
        except OpenAPIError as error:
            self.violations.append(f"{what}: response {status}: {_words(error)}; answered {response[:400]!r}")
        else:
            self.judged.add(what)


def _arguments(query: str) -> Any:
    from werkzeug.datastructures import ImmutableMultiDict

    return ImmutableMultiDict(parse_qsl(query))


def _words(error: BaseException) -> str:
    parts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        parts.append(str(cause))
        parts += [f"{list(e.absolute_path)}: {e.message}" for e in getattr(cause, "schema_errors", ())]
        cause = cause.__cause__
    return " | ".join(part[-300:] for part in reversed(parts))[:700]


@cache
def _openapi(name: str) -> OpenAPI | None:
    file = FOLDER / name
    if not file.is_file():
        return None
    # Not validated itself: DigitalOcean's has an invalid `default: null`.
    config = Config(spec_validator_cls=None)  # pyright: ignore[reportArgumentType]
    return OpenAPI.from_dict(json.loads(file.read_text()), config=config)


def load_contract(name: str) -> Contract | None:
    """None where it is not there."""
    openapi = _openapi(name)
    return Contract(openapi) if openapi is not None else None
