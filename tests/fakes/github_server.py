"""GitHub as far as this stack uses it: stateful, and checked against GitHub's own description where that is there.

Objects it answers with are the official examples, changed where the state says otherwise. Some operations are not
in the description we have (`EXTRA`); they are made of its schemas.
"""

import copy
import functools
import json
import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from devtools_platform.integrations.signatures import sign
from fakes.service import CONTRACTS, METHODS, FakeService

APP_ID = "4242"
SECRET = "github-webhook-secret"
REPO = "/repos/{owner}/{repo}"
_PATH = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in ("owner", "repo")]


def _array(schema: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{schema}"}}


_RUNS = {"type": "object", "required": ["check_runs", "total_count"],
         "properties": {"total_count": {"type": "integer"}, "check_runs": _array("check-run")}}  # fmt: skip
EXTRA: dict[str, Any] = {
    f"{REPO}/issues/{{issue_number}}/comments": _array("issue-comment"),
    f"{REPO}/pulls": _array("pull-request"),
    f"{REPO}/pulls/{{pull_number}}/reviews": _array("pull-request-review"),
    f"{REPO}/check-runs/{{check_run_id}}": {"$ref": "#/components/schemas/check-run"},
    f"{REPO}/commits/{{ref}}/check-runs": _RUNS,
}


@functools.cache
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@functools.cache
def _description() -> dict[str, Any] | None:
    file = CONTRACTS / "github.openapi.json"
    if not file.is_file():
        return None
    spec = json.loads(file.read_text())
    for path, schema in EXTRA.items():
        names = re.findall(r"{(\w+)}", path)
        parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
        content = {"application/json": {"schema": schema}}
        operation = {"parameters": parameters, "responses": {"200": {"description": "", "content": content}}}
        spec["paths"].setdefault(path, {})["get"] = operation
    return spec


@functools.cache
def _checker() -> Any:
    spec = _description()
    if spec is None:
        return None
    from openapi_core import Config, OpenAPI

    return OpenAPI.from_dict(spec, config=Config(spec_validator_cls=None))


def _example(name: str) -> dict[str, Any]:
    spec = _description()
    if spec is None:
        return {}
    return copy.deepcopy(spec["components"]["examples"][name]["value"])


class FakeGitHub(FakeService):
    """`repositories` is a folder of bare repositories `owner/name.git`, which branches are pushed to."""

    def __init__(self, repositories: Path | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.repositories = repositories
        self.comments: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.reviews: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.dispatches: list[dict[str, Any]] = []
        self.reruns: list[int] = []
        self.deployments: list[dict[str, Any]] = []
        self.files = [{"filename": "shop/prices.py", "patch": "@@ -1,3 +1,4 @@\n a\n-b\n+c\n+d\n e"}]
        self.runs: list[dict[str, Any]] = []
        self.heads: dict[int, dict[str, Any]] = {}
        self.jobs: dict[int, list[dict[str, Any]]] = {}
        self.logs: dict[int, str] = {}
        self.tokens: dict[str, float] = {"ghp_" + "p" * 36: time.time() + 3600}
        self.issued = 0
        self._ids = count(1001)

    @property
    def personal_token(self) -> str:
        return next(iter(self.tokens))

    @property
    def git_url(self) -> str:
        assert self.repositories is not None
        return f"file://{self.repositories}/{{owner}}/{{repo}}.git"

    def expire_tokens(self) -> None:
        self.tokens = {}

    def routes(self) -> list[Route]:
        return [
            Route("/log/{job:int}", self._raw_log, methods=["GET"]),
            Route("/fake/state", self._state, methods=["GET"]),
            Route("/{path:path}", self._any, methods=METHODS),
        ]

    async def _any(self, request: Request) -> Response:
        body = await request.body()
        data = await self.note(request, body)
        return await self.serve(request, request.url.path, lambda: self._checked(request, body, data))

    # -- the contract --------------------------------------------------------------------------------------------

    def _checked(self, request: Request, body: bytes, data: Any) -> Response:
        refusal = self._authenticate(request)
        if refusal is not None:
            return refusal
        if breach := self._breach_of_request(request, body):
            self.breaches.append(breach)
            return JSONResponse({"message": breach}, 422)
        response = self._act(request, data)
        if breach := self._breach_of_response(request, body, response):
            self.breaches.append(breach)
            return JSONResponse({"message": breach}, 500)
        return response

    def _breach_of_request(self, request: Request, body: bytes) -> str | None:
        return self._breach(request, body, lambda checker, asked: checker.validate_request(asked))

    def _breach_of_response(self, request: Request, body: bytes, response: Response) -> str | None:
        from openapi_core.testing import MockResponse

        type_ = response.headers.get("content-type", "application/json").split(";")[0]
        given = MockResponse(bytes(response.body), response.status_code, content_type=type_,
                             headers=dict(response.headers))  # fmt: skip
        return self._breach(request, body, lambda checker, asked: checker.validate_response(asked, given))

    def _breach(self, request: Request, body: bytes, check: Callable[[Any, Any], None]) -> str | None:
        checker, path = _checker(), request.url.path
        # What the pruned description leaves out cannot be judged.
        if checker is None or path.endswith(("/jobs", "/actions/runs")) or re.fullmatch(r"/repos/[^/]+/[^/]+", path):
            return None
        from openapi_core.exceptions import OpenAPIError
        from openapi_core.testing import MockRequest

        args = {key: values[0] for key, values in parse_qs(request.url.query).items()}
        asked = MockRequest("https://api.github.com", request.method.lower(), path, args=args,
                            data=body or None, content_type="application/json")  # fmt: skip
        try:
            check(checker, asked)
        except OpenAPIError as error:
            return f"{request.method} {path}: {type(error).__name__}: {'; '.join(_causes(error))}"
        return None

    # -- who calls -----------------------------------------------------------------------------------------------

    def _authenticate(self, request: Request) -> Response | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path.startswith("/app/"):
            key = serialization.load_pem_private_key(private_key().encode(), None).public_key()
            try:
                claims = jwt.decode(token, key, algorithms=["RS256"])  # type: ignore[arg-type]
            except jwt.PyJWTError:
                return JSONResponse({"message": "A JSON web token could not be decoded"}, 401)
            good = claims["iss"] == APP_ID and claims["exp"] - claims["iat"] <= 600
            return None if good else JSONResponse({"message": "Bad claims"}, 401)
        if self.tokens.get(token, 0.0) < time.time():
            return JSONResponse({"message": "Bad credentials"}, 401)
        if "/check-runs" in request.url.path and request.method != "GET" and not token.startswith("ghs_"):
            return JSONResponse({"message": "You must authenticate via a GitHub App."}, 403)
        return None

    # -- what it does --------------------------------------------------------------------------------------------

    def _act(self, request: Request, data: Any) -> Response:
        method, path = request.method, request.url.path
        if path == "/app/installations":
            return JSONResponse([{**self._installation(), "id": 77}])
        if path.startswith("/app/installations/"):
            self.issued += 1
            token = f"ghs_{self.issued:036d}"
            self.tokens[token] = time.time() + 3600
            return JSONResponse({"token": token, "expires_at": "2099-01-01T00:00:00Z"}, 201)
        match = re.fullmatch(r"/repos/([^/]+)/([^/]+)(/.*)?", path)
        assert match is not None, path
        owner, repo, rest = match[1], match[2], match[3] or ""
        if not rest:
            return JSONResponse({"full_name": f"{owner}/{repo}", "default_branch": "main"})
        for pattern, act in self._operations(method).items():
            if found := re.fullmatch(pattern, rest):
                return act(found, data, request)
        return JSONResponse({"message": "Not Found"}, 404)

    def _operations(self, method: str) -> dict[str, Callable[..., Response]]:
        table: dict[str, dict[str, Callable[..., Response]]] = {
            "POST": {
                r"/issues/(\d+)/comments": self._add_comment,
                r"/pulls": self._add_pull,
                r"/pulls/(\d+)/reviews": self._add_review,
                r"/check-runs": self._add_check,
                r"/statuses/(\w+)": self._add_status,
                r"/actions/workflows/([^/]+)/dispatches": self._dispatch,
                r"/actions/runs/(\d+)/rerun-failed-jobs": self._rerun,
                r"/deployments/(\d+)/statuses": self._deployed,
            },
            "PATCH": {
                r"/issues/comments/(\d+)": self._edit_comment,
                r"/check-runs/(\d+)": self._edit_check,
            },
            "GET": {
                r"/issues/(\d+)/comments": lambda m, _, r: self._page(self.comments, r, number=int(m[1])),
                r"/pulls": self._find_pulls,
                r"/pulls/(\d+)": self._show_pull,
                r"/actions/runs": self._find_runs,
                r"/pulls/(\d+)/reviews": lambda m, _, r: self._page(self.reviews, r, number=int(m[1])),
                r"/pulls/(\d+)/files": lambda *_: JSONResponse(
                    [{**_example("diff-entry-items")[0], **f} if _description() else f for f in self.files]
                ),
                r"/check-runs/(\d+)": lambda m, *_: JSONResponse(self._check(int(m[1]))["shown"]),
                r"/commits/(\w+)/check-runs": self._find_checks,
                r"/actions/runs/(\d+)/jobs": lambda m, *_: JSONResponse({"jobs": self.jobs.get(int(m[1]), [])}),
                r"/actions/runs/(\d+)": lambda m, *_: JSONResponse({**_example("workflow-run"), "id": int(m[1])}),
                r"/actions/jobs/(\d+)/logs": lambda m, *_: RedirectResponse(
                    f"{self.url.replace('127.0.0.1', 'localhost')}/log/{m[1]}", 302
                ),
            },
        }
        return table.get(method, {})

    def _add_comment(self, match: re.Match[str], data: Any, _: Request) -> Response:
        shown = {**_example("issue-comment"), "id": next(self._ids), "body": data["body"]}
        self.comments.append({"number": int(match[1]), "id": shown["id"], "shown": shown})
        return JSONResponse(shown, 201)

    def _edit_comment(self, match: re.Match[str], data: Any, _: Request) -> Response:
        for comment in self.comments:
            if comment["id"] == int(match[1]):
                comment["shown"]["body"] = data["body"]
                return JSONResponse(comment["shown"])
        return JSONResponse({"message": "Not Found"}, 404)

    def _add_pull(self, _: re.Match[str], data: Any, request: Request) -> Response:
        if any(pull["head"] == data["head"] for pull in self.pulls):
            return JSONResponse({"message": f"A pull request already exists for {data['head']}."}, 422)
        shown = {**_example("pull-request"), "number": next(self._ids), "title": data["title"], "body": data["body"],
                 "requested_teams": []}  # fmt: skip
        self.pulls.append({"head": data["head"], "number": shown["number"], "base": data["base"], "shown": shown})
        return JSONResponse(shown, 201)

    def _show_pull(self, match: re.Match[str], _: Any, __: Request) -> Response:
        example, given = _example("pull-request"), self.heads[int(match[1])]
        head = example.get("head", {})
        repo = {**head.get("repo", {}), **given["repo"]}
        return JSONResponse({**example, "requested_teams": [], "head": {**head, **given, "repo": repo}})

    def _find_runs(self, _: re.Match[str], __: Any, request: Request) -> Response:
        wanted = {"head_branch": request.query_params.get("branch"), "conclusion": request.query_params.get("status")}
        found = [{**_example("workflow-run"), **run} for run in self.runs]
        for name, value in wanted.items():
            found = [run for run in found if value is None or run[name] == value]
        return JSONResponse(
            {"total_count": len(found), "workflow_runs": found[: int(request.query_params["per_page"])]}
        )

    def _find_pulls(self, _: re.Match[str], __: Any, request: Request) -> Response:
        head = request.query_params["head"].partition(":")[2]
        return JSONResponse([pull["shown"] for pull in self.pulls if pull["head"] == head])

    def _add_review(self, match: re.Match[str], data: Any, _: Request) -> Response:
        if data["event"] != "COMMENT":
            return JSONResponse({"message": "Can not approve your own pull request"}, 422)
        from devtools_platform.integrations.adapters.github import shown_lines

        lines = {file["filename"]: shown_lines(file["patch"]) for file in self.files}
        if any(c["line"] not in lines.get(c["path"], ()) for c in data["comments"]):
            return JSONResponse({"message": "Line must be part of the diff"}, 422)
        shown = {**_example("pull-request-review"), "id": next(self._ids), "body": data["body"]}
        self.reviews.append({"number": int(match[1]), "comments": data["comments"], "shown": shown})
        return JSONResponse(shown, 200)

    def _add_check(self, _: re.Match[str], data: Any, __: Request) -> Response:
        annotations = data["output"].get("annotations", [])
        if len(annotations) > 50:
            return JSONResponse({"message": "No more than 50 annotations"}, 422)
        example = _example("check-run-example-of-completed-conclusion")
        shown = {**example, "id": next(self._ids), "external_id": data["external_id"], "head_sha": data["head_sha"]}
        shown["output"] = {**example.get("output", {}), "annotations_count": len(annotations)}
        self.checks.append({**data, "annotations": list(annotations), "shown": shown})
        return JSONResponse(shown, 201)

    def _edit_check(self, match: re.Match[str], data: Any, _: Request) -> Response:
        check = self._check(int(match[1]))
        added = data["output"].get("annotations", [])
        if len(added) > 50:
            return JSONResponse({"message": "No more than 50 annotations"}, 422)
        check["annotations"] += added
        check["shown"]["output"]["annotations_count"] = len(check["annotations"])
        return JSONResponse(check["shown"])

    def _find_checks(self, match: re.Match[str], _: Any, __: Request) -> Response:
        runs = [check["shown"] for check in self.checks if check["head_sha"] == match[1]]
        return JSONResponse({"total_count": len(runs), "check_runs": runs})

    def _check(self, id_: int) -> dict[str, Any]:
        return next(check for check in self.checks if check["shown"]["id"] == id_)

    def _add_status(self, match: re.Match[str], data: Any, _: Request) -> Response:
        self.statuses.append({**data, "sha": match[1]})
        return JSONResponse({**_example("status"), "state": data["state"]}, 201)

    def _dispatch(self, match: re.Match[str], data: Any, _: Request) -> Response:
        self.dispatches.append({**data, "workflow": match[1]})
        return Response(status_code=204)

    def _rerun(self, match: re.Match[str], _: Any, __: Request) -> Response:
        self.reruns.append(int(match[1]))
        return JSONResponse({}, 201)

    def _deployed(self, match: re.Match[str], data: Any, _: Request) -> Response:
        self.deployments.append({**data, "deployment": int(match[1])})
        return JSONResponse({**_example("deployment-status"), "state": data["state"]}, 201)

    async def _raw_log(self, request: Request) -> Response:
        if "authorization" in request.headers:  # a real store of logs refuses a token that is not its own
            return PlainTextResponse("Only one auth mechanism allowed", 400)
        return PlainTextResponse(self.logs[int(request.path_params["job"])])

    async def _state(self, _: Request) -> Response:
        names = ("comments", "pulls", "reviews", "checks", "statuses", "breaches")
        return JSONResponse({name: getattr(self, name) for name in names})

    def _page(self, things: list[dict[str, Any]], request: Request, *, number: int) -> Response:
        shown = [thing["shown"] for thing in things if thing["number"] == number]
        size, page = int(request.query_params.get("per_page", 30)), int(request.query_params.get("page", 1))
        return JSONResponse(shown[(page - 1) * size : page * size])

    def _installation(self) -> dict[str, Any]:
        spec = _description()
        if spec is None:
            return {"account": {"login": "acme"}}
        operation = spec["paths"]["/app/installations"]["get"]["responses"]["200"]["content"]["application/json"]
        example = next(iter(operation["examples"].values()))
        value = copy.deepcopy(_resolve(spec, example)["value"])[0]
        # The description wants both of a user's and an enterprise's fields; the official example has a user's only.
        more = {
            "name": "Acme",
            "slug": "acme",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }
        value["account"] |= {"login": "acme", **more}
        return value

    # -- webhooks ------------------------------------------------------------------------------------------------

    def texts(self, number: int) -> list[str]:
        """The comments of an issue or pull request."""
        return [comment["shown"]["body"] for comment in self.comments if comment["number"] == number]


def _causes(error: BaseException | None) -> list[str]:
    """What the checker found, without the whole object it looked at."""
    found: list[str] = []
    while error is not None:
        found += [f"{list(e.path)}: {e.message[:200]}" for e in getattr(error, "schema_errors", ())]
        error = error.__cause__
    return found


def _resolve(spec: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = spec
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def signed(body: bytes, event: str, delivery: str, secret: str = SECRET) -> dict[str, str]:
    """The headers of a webhook."""
    return {
        "X-Hub-Signature-256": f"sha256={sign(secret, body)}",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "Content-Type": "application/json",
    }
