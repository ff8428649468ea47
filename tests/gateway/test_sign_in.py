"""Signing in at servers with OAuth: a real authorization server, a protected server, a browser that follows links."""

import asyncio
import json
import os
import socket
import ssl
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools_platform.app.sign_in import SignIns
from devtools_platform.core.errors import DevToolsError, Forbidden, Unavailable
from devtools_platform.gateway.adapters.sign_ins import SignInFiles
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.upstreams.oauth.accounts import Accounts
from devtools_platform.gateway.upstreams.oauth.types import Credential, SignInFailed
from devtools_platform.gateway.upstreams.types import ServerSpec
from fakes.authorization_server import DOCUMENT, Issuer, Protected, issued, protected_server
from gateway_rig import ME, Rig, misbehaving, running, trust_all


@pytest.fixture
async def server() -> AsyncIterator[Protected]:
    async with protected_server() as found:
        yield found


def spec_of(server: Protected, **more: Any) -> ServerSpec:
    fields = {"url": server.url, "auth": "oauth", "allow_private": True, "agents": (ME,), "writes": "allow"}
    return ServerSpec(**{"description": "x", **fields, **more})


def open_sign_ins(folder: Path, server: Protected, document: str | None = None, **more: Any) -> SignIns:
    vault = SignInFiles(folder / "sign-ins")
    accounts = Accounts(vault, ssl.create_default_context(), Secrets(()).learn, document)
    spec = spec_of(server, **more)
    return SignIns(spec, accounts.of("files", spec, str))


class Browser:
    """Follows one redirect, as a person who agrees to everything."""

    def __init__(self, change: Callable[[str], str] = str) -> None:
        self.change = change
        self.tasks: list[asyncio.Task[httpx2.Response]] = []

    def __call__(self, url: str) -> None:
        self.tasks.append(asyncio.create_task(self.visit(url)))

    async def visit(self, url: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as http:
            page = await http.get(url)
            assert page.status_code == 302, page.text
            return await http.get(self.change(page.headers["location"]))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def sign_in(sign_ins: SignIns, *scopes: str, browser: Browser | None = None, port: int = 0) -> Credential:
    browser = browser or Browser()
    made = await sign_ins.sign_in(scopes=scopes, port=port or free_port(), show=browser)
    await asyncio.gather(*browser.tasks)
    return made


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not is_true():  # noqa: ASYNC110 - the other side is another server
            await asyncio.sleep(0.01)


async def until_answered(rig: Rig, tool: str) -> None:
    async with asyncio.timeout(10):
        while "result" not in await rig.call(tool):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


# A person signs in


async def test_a_person_signs_in_with_the_command_and_the_running_gateway_uses_it(
    server: Protected, tmp_path: Path
) -> None:
    catalogue = {"servers": {"files": json.loads(spec_of(server).model_dump_json(exclude_none=True))}}
    (tmp_path / "catalog.yaml").write_text(json.dumps(catalogue))
    async with running({"files": spec_of(server), "one": misbehaving()}, tmp_path, wait=False) as rig:
        files, one = rig.hub.offer.upstreams["files"], rig.hub.offer.upstreams["one"]
        await until(lambda: files.state == "down")
        assert files.reason == "Nobody has signed in yet. A person must sign in: `dev-tools tools login files`."
        assert await one.ready(20), "another server is not held up"

        said = await _command(tmp_path, "login", "files", "--no-browser", "--port", str(free_port()))
        assert "Signed in at files" in said
        assert await files.ready(5), files.reason
        trust_all(rig.hub, files)
        assert json.loads(await rig.text("files_hello")) == {"you sent": "***"}
        kept = [file for file in (tmp_path / "sign-ins").iterdir() if file.suffix == ".json"]
        assert [stat.S_IMODE(file.stat().st_mode) for file in kept] == [0o600]
        assert stat.S_IMODE((tmp_path / "sign-ins").stat().st_mode) == 0o700
        assert not any(token in said for token in [*server.issuer.access, *server.issuer.refresh])

        said = await _command(tmp_path, "logout", "files")
        assert "is forgotten; it was revoked there" in said
        await until(lambda: files.state == "down")
        assert "dev-tools tools login files" in files.reason
        assert server.issuer.refresh == {}
        assert not any((tmp_path / "sign-ins").glob("*.json"))


async def _command(folder: Path, *arguments: str) -> str:
    """Run `dev-tools tools ...` in a process of its own; where it prints an address, go there."""
    environment = {**os.environ, "DEV_TOOLS_GATEWAY_CATALOG": str(folder / "catalog.yaml")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "devtools_platform", "tools", *arguments, "--data-dir", str(folder),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            said += line
            if line.startswith("http"):
                assert (await Browser().visit(line.strip())).text.startswith("Done.")
        said += (await process.stdout.read()).decode()
        assert await process.wait() == 0, said
    return said


async def test_strangers_at_the_loopback_port_neither_end_nor_fool_a_login(server: Protected, tmp_path: Path) -> None:
    port = free_port()
    answers: list[int] = []

    class Disturbed(Browser):
        async def visit(self, url: str) -> httpx2.Response:
            async with httpx2.AsyncClient(trust_env=False) as http:
                for query in ("code=evil&state=guessed", "code=evil", "error=access_denied", "state=a&state=b&code=c"):
                    found = await http.get(f"http://127.0.0.1:{port}/callback?{query}")
                    answers.append(found.status_code)
            return await super().visit(url)

    made = await sign_in(open_sign_ins(tmp_path, server), browser=Disturbed(), port=port)
    assert answers == [400, 400, 400, 400]
    assert made.token is not None
    assert [fields["code"] for _, fields in server.issuer.seen] != ["evil"]


@pytest.mark.parametrize(
    ("iss", "says_iss", "is_good"),
    [
        ("right", True, True),
        ("right", False, True),
        (None, False, True),
        (None, True, False),
        ("https://evil.example", True, False),
        ("https://evil.example", False, False),
    ],
)
async def test_an_answer_of_another_issuer_is_refused_and_its_code_sent_nowhere(
    iss: str | None, *, says_iss: bool, is_good: bool, tmp_path: Path
) -> None:
    async with protected_server(Issuer(iss=iss, says_iss=says_iss)) as server:
        if is_good:
            assert (await sign_in(open_sign_ins(tmp_path, server))).issuer == server.issuer.url
            return
        with pytest.raises(SignInFailed, match="iss"):
            await sign_in(open_sign_ins(tmp_path, server))
        assert server.issuer.seen == []
        assert open_sign_ins(tmp_path, server).account.load() is None


async def test_a_code_of_another_attempt_does_not_get_a_token(server: Protected, tmp_path: Path) -> None:
    """PKCE: a code that was begun with another challenge is worth nothing, though it comes with our state."""

    class Thief(Browser):
        async def visit(self, url: str) -> httpx2.Response:
            async with httpx2.AsyncClient(trust_env=False) as http:
                changed = url.replace("code_challenge=", "code_challenge=X")
                stolen = (await http.get(changed)).headers["location"].split("code=")[1].split("&")[0]
                page = await http.get(url)
                mine = page.headers["location"].split("code=")[1].split("&")[0]
                return await http.get(page.headers["location"].replace(mine, stolen))

    with pytest.raises(SignInFailed, match="invalid_grant"):
        await sign_in(open_sign_ins(tmp_path, server), browser=Thief())


# Who we are there


async def test_a_metadata_document_comes_before_registering(tmp_path: Path) -> None:
    async with protected_server(Issuer(takes_documents=True)) as server:
        made = await sign_in(open_sign_ins(tmp_path, server, DOCUMENT))
        assert made.client.client_id == DOCUMENT
        assert server.issuer.clients == {}


async def test_registering_is_the_fallback_and_done_once(server: Protected, tmp_path: Path) -> None:
    port = free_port()
    first = await sign_in(open_sign_ins(tmp_path, server, DOCUMENT), port=port)
    again = await sign_in(open_sign_ins(tmp_path, server, DOCUMENT), port=port)
    assert first.client.client_id == again.client.client_id == "client-0"
    assert len(server.issuer.clients) == 1
    await sign_in(open_sign_ins(tmp_path, server), port=free_port())
    assert len(server.issuer.clients) == 2, "another address is another registration"


async def test_a_server_that_registers_nobody_is_told_apart(tmp_path: Path) -> None:
    async with protected_server(Issuer(takes_registrations=False)) as server:
        with pytest.raises(SignInFailed, match="takes no registrations") as caught:
            await sign_in(open_sign_ins(tmp_path, server))
        assert "client_id" in caught.value.hint


async def test_a_fixed_client_uses_its_secret_and_keeps_it_out_of_the_file(tmp_path: Path) -> None:
    async with protected_server() as server:
        port = free_port()
        server.issuer.clients["team"] = {
            "redirect_uris": [f"http://127.0.0.1:{port}/callback"],
            "client_secret": "s3cret-of-the-team",
        }
        oauth = {"client_id": "team", "client_secret": "s3cret-of-the-team", "issuer": server.issuer.url}
        sign_ins = open_sign_ins(tmp_path, server, oauth=oauth)
        made = await sign_in(sign_ins, port=port)
        assert "s3cret" not in "".join(file.read_text() for file in (tmp_path / "sign-ins").glob("*.json"))
        renewed = await sign_ins.account.renew(made)
        assert renewed.token != made.token, "the secret is there again when it is needed"


async def test_a_fixed_client_goes_to_its_issuer_only(server: Protected, tmp_path: Path) -> None:
    oauth = {"client_id": "team", "client_secret": "s3cret-of-the-team", "issuer": "https://login.example.org"}
    with pytest.raises(SignInFailed, match="the catalogue trusts"):
        await sign_in(open_sign_ins(tmp_path, server, oauth=oauth))
    assert server.issuer.seen == []
    with pytest.raises(ValueError, match="needs client_id and issuer"):
        spec_of(server, oauth={"client_id": "team", "client_secret": "s3cret-of-the-team"})


# What is not believed


@pytest.mark.parametrize(
    ("issuer", "claim", "words"),
    [
        (Issuer(), "https://bank.example/mcp", "would be for others"),
        (Issuer(claims_to_be="https://bank.example"), None, "issuer mismatch"),
        (Issuer(has_s256=False), None, "PKCE"),
        (Issuer(padding="x" * 300_000), None, "larger than"),
    ],
)
async def test_metadata_that_does_not_fit_ends_the_login(
    issuer: Issuer, claim: str | None, words: str, tmp_path: Path
) -> None:
    async with protected_server(issuer) as server:
        server.claims_to_be = claim
        with pytest.raises(DevToolsError, match=words):
            await sign_in(open_sign_ins(tmp_path, server))
        assert issuer.codes == {}


async def test_private_addresses_are_not_asked_unless_allowed(server: Protected, tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="no https address"):
        await sign_in(open_sign_ins(tmp_path, server, allow_private=False))
    tls = server.url.replace("http://", "https://")
    with pytest.raises(Forbidden, match="no public address"):
        await sign_in(open_sign_ins(tmp_path, server, allow_private=False, url=tls))


async def test_a_redirect_of_the_token_endpoint_is_not_followed(server: Protected, tmp_path: Path) -> None:
    async with issued(Issuer()) as elsewhere:
        server.issuer.token_redirect = f"{elsewhere.url}/token"
        with pytest.raises(SignInFailed, match="HTTP 307"):
            await sign_in(open_sign_ins(tmp_path, server))
        assert elsewhere.seen == []


# Tokens live on


async def test_tokens_are_renewed_before_they_expire_and_no_call_sees_it(tmp_path: Path) -> None:
    async with protected_server(Issuer(lifetime_s=2)) as server:
        await sign_in(open_sign_ins(tmp_path, server))
        async with running({"files": spec_of(server)}, tmp_path) as rig:
            calls = 0
            async with asyncio.timeout(20):
                while server.issuer.count("refresh_token") < 2:
                    await rig.text("files_hello")
                    calls += 1
            assert calls > 10
            assert server.refused == 0
            assert rig.hub.offer.upstreams["files"].restarts == 0
        assert len(server.issuer.used) == server.issuer.count("refresh_token"), "each was used once"


async def test_many_calls_that_find_the_token_refused_renew_it_once(server: Protected, tmp_path: Path) -> None:
    await sign_in(open_sign_ins(tmp_path, server))
    async with running({"files": spec_of(server)}, tmp_path) as rig:
        server.issuer.access.clear()
        texts = await asyncio.gather(*(rig.text("files_hello") for _ in range(20)))
        assert len(texts) == 20
        assert server.issuer.count("refresh_token") == 1
        server.issuer.access.clear()
        answer = await rig.call("files_hello")
        assert "dev-tools tools login files" in answer["error"]["message"]
        assert server.issuer.count("refresh_token") == 1, "a server that refuses good tokens gets no new ones at once"


async def test_a_sign_in_that_has_ended_says_so_and_a_new_one_mends_it(server: Protected, tmp_path: Path) -> None:
    await sign_in(open_sign_ins(tmp_path, server))
    async with running({"files": spec_of(server)}, tmp_path) as rig:
        files = rig.hub.offer.upstreams["files"]
        server.issuer.refresh.clear()
        server.issuer.access.clear()
        answer = await rig.call("files_hello")
        assert "invalid_grant" in answer["error"]["message"]
        assert "`dev-tools tools login files`" in answer["error"]["message"]
        await until(lambda: files.state == "down" and "login files" in files.reason)
        await sign_in(open_sign_ins(tmp_path, server))
        assert await files.ready(5), files.reason
        await rig.text("files_hello")


async def test_a_refresh_token_that_was_refused_is_not_sent_again(tmp_path: Path) -> None:
    async with protected_server(Issuer(lifetime_s=2)) as server:
        made = await sign_in(open_sign_ins(tmp_path, server))
        server.issuer.refresh.clear()
        async with running({"files": spec_of(server)}, tmp_path) as rig:
            files = rig.hub.offer.upstreams["files"]
            await until(lambda: files.restarts >= 3 and time.time() > (made.expires_at or 0) + 1)
            assert files.state == "down"
            assert "login files" in files.reason
            assert server.issuer.count("refresh_token") == 1


async def test_an_authorization_server_that_is_away_does_not_end_a_sign_in(tmp_path: Path) -> None:
    async with protected_server(Issuer(lifetime_s=2)) as server:
        made = await sign_in(open_sign_ins(tmp_path, server))
        server.issuer.refresh_error = "busy"
        async with running({"files": spec_of(server)}, tmp_path) as rig:
            await until(lambda: server.issuer.count("refresh_token") >= 1 and time.time() > (made.expires_at or 0))
            assert "there is no new one now" in (await rig.call("files_hello"))["error"]["message"]
            server.issuer.refresh_error = None
            await until_answered(rig, "files_hello")


async def test_a_used_refresh_token_ends_all_and_nothing_is_sent_to_another_issuer(
    server: Protected, tmp_path: Path
) -> None:
    sign_ins = open_sign_ins(tmp_path, server)
    first = await sign_in(sign_ins)
    first_issuer = server.issuer
    async with issued(Issuer()) as second, running({"files": spec_of(server)}, tmp_path) as rig:
        files = rig.hub.offer.upstreams["files"]
        server.issuer = second  # the server has moved, or was taken over
        answer = await rig.call("files_hello")
        assert "error" in answer
        await until(lambda: files.state == "down")
        assert second.seen == [], "what the first gave is not shown to the second"
        made = await sign_in(open_sign_ins(tmp_path, server))
        assert made.issuer == second.url
        assert await files.ready(5), files.reason
        await rig.text("files_hello")
        old = [*first_issuer.access, *first_issuer.refresh, *first_issuer.used]
        assert not any(token in json.dumps(second.seen) for token in old)
        assert first.issuer != made.issuer
        assert SignInFiles(tmp_path / "sign-ins").find("files", first.issuer) is not None


async def test_a_missing_scope_is_said_and_asked_for_beside_what_was_granted(server: Protected, tmp_path: Path) -> None:
    await sign_in(open_sign_ins(tmp_path, server))
    async with running({"files": spec_of(server)}, tmp_path) as rig:
        for _ in range(4):
            message = (await rig.call("files_write"))["error"]["message"]
            assert "It wants the scope 'write', which our sign-in lacks" in message
            assert "`dev-tools tools login files --scope 'read write'`" in message
        assert rig.hub.offer.upstreams["files"].state == "ready", "one tool's scope does not take the others away"
        made = await sign_in(open_sign_ins(tmp_path, server), "write")
        assert made.scope == "read write"
        await until_answered(rig, "files_write")


async def test_tokens_appear_nowhere(server: Protected, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await sign_in(open_sign_ins(tmp_path, server))
    async with running({"files": spec_of(server)}, tmp_path) as rig:
        seen = [json.dumps(await rig.call("files_leak")), json.dumps(await rig.call("files_leak_error"))]
        assert all("***" in text for text in seen), seen
        token = next(iter(server.issuer.access))
        refused = await rig.call("files_hello", token)
        assert "hold a secret" in refused["error"]["message"], "nor does a tool receive it as an argument"
        server.issuer.access.clear()
        seen.append(json.dumps(await rig.call("files_leak")))
        rest = {"Authorization": "Bearer rest"}
        seen += [
            (await rig.http.get(rig.url + path, headers=rest)).text for path in ("/servers", "/health", "/metrics")
        ]
        await rig.hub.audit.flush()
        seen += [repr(line) for line in rig.audit.lines]
        server.issuer.refresh.clear()
        server.issuer.access.clear()
        seen.append(json.dumps(await rig.call("files_hello")))
    everything = "\n".join([*seen, caplog.text])
    values = [*server.issuer.used, token]
    values += [fields.get("refresh_token", "-") for _, fields in server.issuer.seen]
    values += [fields.get("code_verifier", "-") for _, fields in server.issuer.seen]
    assert [value for value in values if len(value) > 1 and value in everything] == []


async def test_a_sign_in_for_another_address_does_not_count(server: Protected, tmp_path: Path) -> None:
    await sign_in(open_sign_ins(tmp_path, server))
    moved = open_sign_ins(tmp_path, server, url=server.url + "/v2")
    assert moved.account.load() is None


async def test_nobody_waits_for_ever_at_the_port(server: Protected, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DevToolsError, match="cannot be used"):
        await sign_in(open_sign_ins(tmp_path, server), port=taken.getsockname()[1])
    server.issuer.url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable):
        await sign_in(open_sign_ins(tmp_path, server))
