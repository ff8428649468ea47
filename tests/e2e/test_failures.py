"""What docs/explanation/failures.md says happens in each failure, on a real stack: it goes on, or says so and goes on
by itself when what was away is back; nothing is lost, and nothing is done twice."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.demo import FILES
from devtools_platform.context.names import name_collection
from e2e import scenarios
from e2e.slow_link import SlowLink
from fakes.openai_server import FakeOpenAI
from fakes.qdrant_server import QdrantServer
from processes import is_of, kill_now
from stacks import FINAL, StackProcess, clean_env, git, make_repo, running_stack, wait_until

pytestmark = pytest.mark.timeout(300)

DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE."""
TASK = "An order of exactly 100 must get the discount."


@pytest.fixture(scope="module")
def model() -> Iterator[SlowLink]:
    with FakeOpenAI(Script.parse(scenarios.RULES)) as server, SlowLink(server.base_url) as link:
        yield link


@pytest.fixture(scope="module")
def env(model: SlowLink, endpoint_env: dict[str, str]) -> dict[str, str]:
    return {**endpoint_env, "DEV_TOOLS_MODEL_BASE_URL": model.base_url}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says by how many seconds the stack's clock is off."""
    file = tmp_path_factory.mktemp("clock") / "offset"
    step(file, 0)
    return file


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str], clock: Path) -> Iterator[StackProcess]:
    shim = clock.with_name("clock.so")
    compiler = shutil.which("cc")
    assert compiler, "these tests need a C compiler, for a clock that can step"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, Path(__file__).with_name("clock.c")], check=True)
    more = {"LD_PRELOAD": str(shim), "FAKE_CLOCK": str(clock)}
    with running_stack(tmp_path_factory.mktemp("failures") / "data", clean_env(**env, **more)) as stack:
        yield stack


def step(clock: Path, seconds: int) -> None:
    if not clock.exists():
        clock.write_bytes(bytes(8))
    with clock.open("r+b") as file:
        file.write(struct.pack("q", seconds))


def begin(stack: StackProcess, repo: Path, until: str = "delegated") -> str:
    task_id = stack.create_task(TASK, make_repo(repo, FILES))["id"]
    stack.wait_for_event(task_id, until)
    return task_id


def assert_done_once(stack: StackProcess, task_id: str, repo: Path) -> None:
    task = stack.wait_for_end(task_id)
    assert task["status"] == "completed", (task["reason"], task["message"])
    assert git(repo, "rev-list", "--count", f"main..{task['branch']}") == "1"
    numbers = [event["seq"] for event in stack.get(f"/tasks/{task_id}/events")]
    assert numbers == list(range(1, len(numbers) + 1)), "a timeline without gaps"
    assert stack.get("/audit/verification")["broken_at"] is None


def family(stack: StackProcess) -> list[psutil.Process]:
    assert stack.process is not None
    return psutil.Process(stack.process.pid).children(recursive=True)


# -- the model ---------------------------------------------------------------------------------------------------


def test_a_model_that_is_away_for_seconds_is_waited_for(stack: StackProcess, model: SlowLink, tmp_path: Path) -> None:
    task_id = begin(stack, tmp_path / "shop")
    before = model.refused
    model.mode = "away"
    wait_until(lambda: model.refused > before, "a call that found nobody")
    model.mode = "fine"

    assert_done_once(stack, task_id, tmp_path / "shop")


def test_a_model_that_stays_away_ends_the_task_and_a_retry_goes_on_where_it_was(
    stack: StackProcess, model: SlowLink, tmp_path: Path
) -> None:
    task_id = begin(stack, tmp_path / "shop")
    model.mode = "away"
    try:
        task = stack.wait_for_end(task_id)
    finally:
        model.mode = "fine"
    assert (task["status"], task["branch"]) == ("failed", None), task
    assert stack.get("/health")["ok"] is True

    seen = stack.get(f"/tasks/{task_id}/events")[-1]["seq"]
    assert stack.post(f"/tasks/{task_id}/retry").status_code < 300
    stack.wait_for_end(task_id, after=seen)
    assert_done_once(stack, task_id, tmp_path / "shop")


def test_a_slow_network_makes_a_task_slow_and_nothing_else(
    stack: StackProcess, model: SlowLink, tmp_path: Path
) -> None:
    model.mode = "slow"
    try:
        assert_done_once(stack, begin(stack, tmp_path / "shop"), tmp_path / "shop")
    finally:
        model.mode = "fine"


# -- the clock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [7200, -7200], ids=["forwards", "back"])
def test_a_clock_that_steps_in_the_middle_of_a_task_stops_nothing(
    stack: StackProcess, clock: Path, tmp_path: Path, seconds: int
) -> None:
    task_id = begin(stack, tmp_path / "shop")
    step(clock, seconds)
    try:
        assert_done_once(stack, task_id, tmp_path / "shop")
    finally:
        step(clock, 0)


# -- the index ---------------------------------------------------------------------------------------------------


def test_a_killed_index_engine_is_back_at_the_next_search_with_all_it_held(stack: StackProcess, tmp_path: Path) -> None:
    assert_done_once(stack, begin(stack, tmp_path / "shop"), tmp_path / "shop")
    with stack.http as http:
        url, token = stack.facts["urls"]["context"], http.headers["Authorization"]  # type: ignore[index]
        (name,) = [one for one in http.get(f"{url}/collections").json() if "shop" in one][-1:]
        search = lambda: http.get(f"{url}/collections/{name}/search", params={"q": "discount"})  # noqa: E731
        held = [(hit["path"], hit["start_line"]) for hit in search().json()]
        assert held
        assert token
        kill_now(engine for engine in family(stack) if is_of(engine, "edge_child"))

        answers: list[Any] = []
        wait_until(lambda: answers.append(search()) or answers[-1].status_code == 200, "a search that is answered")

    assert {answer.status_code for answer in answers} <= {200, 503}
    assert [(hit["path"], hit["start_line"]) for hit in answers[-1].json()] == held


def test_without_its_qdrant_server_a_stack_starts_and_works_and_searches_when_it_is_there(
    env: dict[str, str], tmp_path: Path
) -> None:
    server = QdrantServer(tmp_path / "qdrant")
    with closing(server), running_stack(tmp_path / "data", clean_env(**env, QDRANT_URL=server.url)) as stack:
        repo = make_repo(tmp_path / "shop", FILES)
        task = stack.run_task(TASK, repo)
        assert task["status"] == "completed", (task["reason"], task["message"])
        assert "Qdrant" in json.dumps(task["degraded"]), "the task says what it did without"
        assert stack.facts is not None
        with stack.http as http:
            url = f"{stack.facts['urls']['context']}/collections/{name_collection(repo)}/search"
            context = http.get(f"{stack.facts['urls']['context']}/health")
            assert (context.status_code, context.json()["ok"]) == (503, False)
            server.start()
            wait_until(lambda: http.get(url, params={"q": "discount"}).status_code == 200, "a search that is answered")
            wait_until(lambda: bool(http.get(url, params={"q": "discount"}).json()), "an index that was made by itself")


# -- the disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_place(service_root: Path, tmp_path: Path) -> Iterator[Path]:
    """A data directory on a file system of 300 MB that holds the database, too."""
    disk = service_root / tmp_path.name
    disk.mkdir(mode=0o755)
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m,mode=755", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk, and not every root")
    (disk / "data").mkdir()
    (disk / "data").chmod(0o711)
    yield disk / "data"
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    assert shutil.disk_usage(disk).free < 1 << 16
    return filler


def test_a_full_disk_is_told_and_with_room_again_work_goes_on(
    small_place: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with running_stack(small_place, clean_env(**env, DEV_TOOLS_MIN_FREE_DISK_MB="5")) as stack:
        task_id = begin(stack, tmp_path / "shop")
        assert (small_place / "postgres" / "cluster").is_dir(), "the database is on the small disk, too"
        filler = fill(small_place.parent)
        statuses: set[int] = set()

        def is_noticed() -> bool:
            with stack.http as http:
                answer = http.post("/tasks", json={"text": TASK, "repo": str(tmp_path / "shop")})
                statuses.add(answer.status_code)
            return answer.status_code != 201

        wait_until(is_noticed, "a task that is refused")
        assert statuses <= {201, 503, 507}
        filler.unlink()

        def is_over() -> bool:
            with stack.http as http:
                answer = http.get(f"/tasks/{task_id}")
                statuses.add(answer.status_code)
            return answer.status_code == 200 and answer.json()["status"] in FINAL

        wait_until(is_over, "the end of the task that met the full disk")
        assert statuses <= {200, 201, 503, 507}
        task = stack.get(f"/tasks/{task_id}")
        if task["status"] == "failed":
            assert task["reason"] == "disk_full", task
            seen = stack.get(f"/tasks/{task_id}/events")[-1]["seq"]
            retried = stack.post(f"/tasks/{task_id}/retry")
            if retried.status_code == 409:  # its clone met the full disk: nothing is there to go on from
                assert "Hand the task over again" in retried.json()["hint"], (task, retried.text)
                task_id = stack.create_task(TASK, tmp_path / "shop")["id"]
            else:
                assert retried.status_code < 300, (task, retried.text)
                stack.wait_for_end(task_id, after=seen)
        assert_done_once(stack, task_id, tmp_path / "shop")


@contextmanager
def refusing(stack: StackProcess, table: str, when: str, sqlstate: str) -> Iterator[Callable[[], int]]:
    """The database refuses rows of `table` `when` something holds of NEW, as it does without room or on a bug.

    Yields what says how often it did.
    """
    url = (stack.data_dir / "database_url").read_text().strip()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as database:
        run = lambda words: database.execute(sa.text(words))  # noqa: E731
        run("CREATE SEQUENCE refusals")  # not undone with what is refused
        run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('refusals'); "
            f"RAISE EXCEPTION 'refused for a test' USING ERRCODE = '{sqlstate}'; END $$"
        )
        moment = f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({when})"
        run(f"CREATE TRIGGER refuse {moment} EXECUTE FUNCTION refuse()")
        try:
            yield lambda: int(run("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM refusals").scalar_one())
        finally:
            run(f"DROP TRIGGER refuse ON {table}")
            run("DROP FUNCTION refuse")
            run("DROP SEQUENCE refusals")


def test_a_task_whose_end_finds_no_room_in_the_database_ends_when_there_is_some(
    stack: StackProcess, tmp_path: Path
) -> None:
    with refusing(stack, "devtools.tasks", "NEW.status = 'completed'", DISK_FULL) as refusals:
        task_id = begin(stack, tmp_path / "shop")
        wait_until(lambda: refusals() > 1, "an end that is tried again")
        assert stack.get(f"/tasks/{task_id}")["status"] == "working"
    assert_done_once(stack, task_id, tmp_path / "shop")


def test_a_task_whose_own_tests_find_no_room_in_the_database_says_so_and_gives_its_room_back(
    stack: StackProcess, tmp_path: Path
) -> None:
    task_id = begin(stack, tmp_path / "shop")
    with refusing(stack, "devtools.events", "NEW.key LIKE 'tool:%:final:%'", DISK_FULL):
        task = stack.wait_for_end(task_id)
    assert (task["status"], task["reason"]) == ("failed", "disk_full"), task["message"]
    assert not (stack.data_dir / "workspaces" / task_id).exists()


def test_a_model_call_that_finds_no_room_in_the_database_is_no_fault_of_the_model(
    stack: StackProcess, tmp_path: Path
) -> None:
    with refusing(stack, "devtools.model_calls", "NEW.agent = 'feature-dev'", DISK_FULL) as refusals:
        task = stack.wait_for_end(begin(stack, tmp_path / "shop"))
        assert refusals() > 0
    assert (task["status"], task["reason"]) == ("failed", "disk_full"), task["message"]


def test_a_task_whose_workflow_broke_at_its_last_step_is_not_open_for_ever(stack: StackProcess, tmp_path: Path) -> None:
    with refusing(stack, "devtools.tasks", "NEW.status = 'completed'", "XX000") as refusals:
        task_id = begin(stack, tmp_path / "shop")
        wait_until(lambda: refusals() > 0, "an end that breaks")
    task = stack.wait_for_end(task_id)
    assert (task["status"], task["reason"]) == ("failed", "internal"), task
    seen = stack.get(f"/tasks/{task_id}/events")[-1]["seq"]
    assert stack.post(f"/tasks/{task_id}/retry").status_code < 300
    stack.wait_for_end(task_id, after=seen)
    assert_done_once(stack, task_id, tmp_path / "shop")
