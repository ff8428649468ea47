"""The doctor meets each trouble for real: it names it, says the command that mends it, and what is well stays well."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from devtools_platform.app.doctor import CHECKS, Check, examine
from devtools_platform.app.home import LAST_BACKUP, Home
from devtools_platform.app.managed import Managed, ManagedRecord
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit import schema
from devtools_platform.kit.database import connect, migrate
from devtools_platform.kit.process import free_port
from devtools_platform.state.service import _new_row


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A stack that is down, with all it needs."""
    store = tmp_path / "store.db"
    with closing(connect(f"sqlite:///{store}").raw_connection()):
        pass
    engine = connect(f"sqlite:///{store}")
    migrate(engine)
    engine.dispose()
    script = tmp_path / "script.yaml"
    script.write_text("[]")
    ports = dict.fromkeys(("gateway_port", "context_port", "state_port", "console_port"), 0)
    return Settings(
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        database_url=SecretStr(f"sqlite:///{store}"),
        model_script=script,
        min_free_disk_mb=1,
        use_ollama=False,
        **ports,
    )


@contextmanager
def server(answers: dict[str, Any], *, clock: timedelta = timedelta()) -> Iterator[str]:
    """An HTTP server that answers by path, whose clock is off by `clock`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            self.send_response_only(status)
            self.send_header("Date", format_datetime(datetime.now(UTC) + clock, usegmt=True))
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


async def look(settings: Settings, name: str, **changes: Any) -> Check:
    return await CHECKS[name](settings.model_copy(update=changes))


async def test_where_all_is_well_nothing_is_to_be_done(settings: Settings) -> None:
    checks = await examine(settings)

    assert [check.name for check in checks] == list(CHECKS)
    assert [check for check in checks if not check.is_ok or check.fix] == []


async def test_a_database_of_a_newer_or_older_release_is_told_with_what_to_do(settings: Settings) -> None:
    engine = connect(str(settings.database_url.get_secret_value() if settings.database_url else ""))

    def set_step(step: str) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{step}'"))

    set_step("0001")
    older = await look(settings, "database")
    set_step("9999")
    newer = await look(settings, "database")
    engine.dispose()

    assert (older.is_ok, "backup create" in older.fix) == (True, True)
    assert (newer.is_ok, "pip install --upgrade" in newer.fix, "9999" in newer.found) == (False, True, True)


async def test_who_removes_old_releases_is_said_and_what_that_needs(settings: Settings, tmp_path: Path) -> None:
    nowhere = await look(settings, "old releases")
    nobody = await look(settings, "old releases", registry="registry.example.com/acme")
    key, hosts = tmp_path / "release.pub", tmp_path / "hosts.yaml"
    stack = {"registry": "registry.example.com/acme", "prune_releases": True, "hosts_file": hosts}
    with pytest.raises(BadInput, match="DEV_TOOLS_RELEASE_PUBLIC_KEY is not set"):
        await look(settings, "old releases", **stack)
    key.write_text("a key")
    with pytest.raises(BadInput, match="cannot be read"):
        await look(settings, "old releases", **stack, release_public_key=key)
    hosts.write_text("hosts: {web-1: {address: 203.0.113.7}}")
    well = await look(settings, "old releases", **stack, release_public_key=key)

    assert (nowhere.is_ok, nowhere.fix) == (True, "")
    assert (nobody.is_ok, "release prune" in nobody.fix) == (True, True)
    assert (well.is_ok, well.fix) == (True, "")
    assert well.found == "removed once a day where 1 hosts agree; the newest 5 and 30 days are kept"


async def test_what_does_not_answer_is_named_with_its_address(settings: Settings) -> None:
    nobody = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    away = SecretStr(f"postgresql://me:s3cret@127.0.0.1:{free_port('127.0.0.1')}/db")

    checks = await examine(
        settings.model_copy(update={"qdrant_url": nobody, "otlp_endpoint": nobody, "database_url": away})
    )

    bad = {check.name: check for check in checks if not check.is_ok}
    assert set(bad) == {"index", "addresses", "database"}
    assert nobody in bad["index"].found
    assert nobody in bad["addresses"].found
    assert all(check.fix for check in bad.values())
    assert "s3cret" not in str(checks)


@pytest.mark.parametrize(
    ("answers", "is_ok", "words"),
    [
        ({"/": (200, {"version": "1.20.1"}), "/collections": (200, {})}, True, "Qdrant 1.20.1"),
        ({"/": (200, {"version": "1.9.0"}), "/collections": (200, {})}, False, "Qdrant 1.9.0"),
        ({"/": (200, {"version": "1.20.1"}), "/collections": (401, {})}, False, "refuses the key"),
        ({"/": (200, {"hello": "I am something else"})}, False, "no Qdrant answers"),
    ],
)
async def test_a_qdrant_server_is_asked_for_its_version_and_with_the_key(
    settings: Settings, answers: dict[str, Any], *, is_ok: bool, words: str
) -> None:
    with server(answers) as url:
        check = await look(settings, "index", qdrant_url=url)

    assert (check.is_ok, words in check.found) == (is_ok, True), check
    assert bool(check.fix) != is_ok


@pytest.mark.parametrize(("clock", "words"), [(timedelta(hours=1), "behind"), (timedelta(hours=-1), "ahead of")])
async def test_a_clock_that_is_off_is_told_by_that_of_others(settings: Settings, clock: timedelta, words: str) -> None:
    with server({}, clock=clock) as url:
        off = await look(settings, "clock", otlp_endpoint=url)
    with server({}) as url:
        well = await look(settings, "clock", otlp_endpoint=url)

    assert (off.is_ok, words in off.found, "timedatectl" in off.fix) == (False, True, True), off
    assert (well.is_ok, "OTLP" in well.found) == (True, True)


async def test_a_clock_that_was_set_back_is_told_by_what_the_database_knows(settings: Settings) -> None:
    engine = connect(settings.database_url.get_secret_value() if settings.database_url else "")
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.tasks).values(_new_row("t1", TaskRequest(text="x", repo="/repo"))))
        at = datetime.now(UTC) + timedelta(hours=2)
        row = {"task_id": "t1", "seq": 1, "key": "k", "kind": "created", "data": {}, "at": at}
        connection.execute(sa.insert(schema.events).values(row))
    engine.dispose()

    check = await look(settings, "clock")

    assert (check.is_ok, "newest event" in check.found) == (False, True), check


async def test_what_should_be_replaced_before_long_is_a_reminder_and_no_failure(settings: Settings) -> None:
    home = Home(settings.data_dir)
    home.prepare()
    record = ManagedRecord.load(home)
    made_at = (datetime.now(UTC) - timedelta(days=100)).isoformat()
    record.keep("staging", "reviewer", Managed("uuid", key=SecretStr("k"), key_uuid="k1", key_made_at=made_at))

    keys = await look(settings, "keys")
    backup = await look(settings, "backup", environment="production")
    home.keep_secret(LAST_BACKUP, json.dumps({"at": datetime.now(UTC).isoformat()}))
    made = await look(settings, "backup", environment="production")

    assert (keys.is_ok, keys.fix) == (True, "dev-tools agents rotate-keys --env staging")
    assert (backup.is_ok, backup.found, backup.fix) == (True, "never", "dev-tools backup keygen FILE")
    assert (made.is_ok, made.fix) == (True, "")
