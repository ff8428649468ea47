"""The commands' client against a real server: a write is sent again with its key, and a broken command says how."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from devtools_platform.app.client import StackClient, actor
from devtools_platform.cli.approvals import read_arguments
from devtools_platform.cli.worker import read_queues
from devtools_platform.core.errors import BadInput, Unavailable

APPROVAL = {
    "id": "a-1", "task_id": "a", "kind": "tool", "agent": "cicd", "tool": "workspace_delete_file", "arguments": {},
    "preview": "", "rule": "deletes", "risk": "high", "cost_usd": None, "environment": "test", "status": "denied",
    "version": 2, "decided_by": "me", "decided_at": None, "reason": "no", "edited_arguments": None,
    "expires_at": "2026-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


class FlakyServer(ThreadingHTTPServer):
    """Hears every request, and hangs up on the first `failures` of them without an answer."""

    def __init__(self, failures: int) -> None:
        self.left, self.heard = failures, list[dict[str, Any]]()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: FlakyServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key, who = self.headers["Idempotency-Key"], self.headers["Dev-Tools-Actor"]
        self.server.heard.append({"path": self.path, "key": key, "actor": who, "body": json.loads(body)})
        if self.server.left:
            self.server.left -= 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        answer = json.dumps(APPROVAL).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[FlakyServer]:
    with FlakyServer(request.param) as serving:
        thread = Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def client_of(server: FlakyServer) -> StackClient:
    return StackClient(f"http://127.0.0.1:{server.server_port}", "token")


@pytest.mark.parametrize("server", [2], indirect=True)
async def test_a_write_whose_connection_breaks_is_sent_again_with_the_same_key(server: FlakyServer) -> None:
    from devtools_platform.core.approvals import Verdict

    verdict = Verdict(decision="deny", reason="no")
    assert (await client_of(server).decide("a-1", verdict)).status == "denied"
    assert (await client_of(server).decide("a-1", verdict)).status == "denied"

    first, second = server.heard[:3], server.heard[3]
    assert [heard["path"] for heard in first] == ["/approvals/a-1/decision"] * 3
    assert len({heard["key"] for heard in first}) == 1
    assert second["key"] != first[0]["key"]
    assert {heard["actor"] for heard in server.heard} == {actor()}


@pytest.mark.parametrize("server", [9], indirect=True)
async def test_a_write_is_not_sent_for_ever(server: FlakyServer) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await client_of(server).steer_task("a/../b", "text")

    assert [heard["path"] for heard in server.heard] == ["/tasks/a%2F..%2Fb/messages"] * 3


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"x"'])
def test_edited_arguments_that_are_no_json_object_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="--arguments") as caught:
        read_arguments(text)
    assert "--arguments '{" in caught.value.hint


def test_edited_arguments_are_taken_as_given() -> None:
    assert read_arguments('{"path": "a.py", "n": [1]}') == {"path": "a.py", "n": [1]}
    assert read_arguments(None) is None


def test_an_unknown_queue_is_refused_with_the_known_ones() -> None:
    assert read_queues("agents, tasks,agents") == ("agents", "tasks")
    with pytest.raises(BadInput, match="'agent' is no queue; the queues are tasks and agents"):
        read_queues("agent")
