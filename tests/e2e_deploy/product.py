"""The product itself as a release: its own Dockerfile, compose files and Caddyfile, from a clone of this repository."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.fleet import REGISTRY, Fleet, Machine, end, run, start_caddy, wait_for, write_host_config
from e2e_deploy.shop import GIT, POSTGRES

ROOT = Path(__file__).parents[2]
EARLIER = f"{REGISTRY}/acme/dev-tools-stack:earlier"


@dataclass
class Product:
    """Dev-Tools on the droplet `web-2`."""

    fleet: Fleet
    repo: Path
    droplet: Machine
    token: str

    @property
    def env(self) -> dict[str, str]:
        return {"DEV_TOOLS_RELEASE_APPLICATION": "dev-tools"}

    def cli(self, *args: str | Path, code: int | None = 0) -> Any:
        return self.fleet.cli(*args, env=self.env, code=code)

    def release(self, change: tuple[str, str] | None = None) -> dict[str, Any]:
        """Build the commit; `change` replaces one line of the package before it."""
        if change is not None:
            file = self.repo / "src/devtools_platform/__init__.py"
            file.write_text(file.read_text().replace(*change))
            run(*GIT, "commit", "-qam", "A change", cwd=self.repo)
        return self.cli("release", "build", "--compose", self.repo / "deploy/compose.app.yaml", "--no-sbom")

    def psql(self, query: str) -> str:
        name = "dev-tools-data-postgres-1"
        argv = ["exec", name, "psql", "-h", "127.0.0.1", "-U", "devtools", "-d", "devtools", "-Atc", query]
        return self.droplet.docker(*argv).strip()


@dataclass
class Prepared:
    """A clone of this repository whose image is built and pushed while other tests run: its release finds the layers
    where those of an earlier release would be."""

    repo: Path
    build: "subprocess.Popen[bytes]"


@contextmanager
def prepare(fleet: Fleet) -> Iterator[Prepared]:
    repo = fleet.folder / "dev-tools"
    run("git", "clone", "-q", ROOT, repo)
    lock, wheels = repo / "requirements/image.txt", repo / "deploy/wheels"
    pip = f"{sys.executable} -m pip download -q --no-deps --require-hashes -r {lock} -d {wheels}"
    build = f"DOCKER_BUILDKIT=0 docker build -q -t {EARLIER} -f {repo}/deploy/Dockerfile {repo}"
    script = f"{pip} && {build} && docker push -q {EARLIER}"
    log = (fleet.folder / "product-build.log").open("wb")
    with log:
        # Outside the namespace: the wheels come from the index that pip is configured with.
        env = {**os.environ, **fleet.ci.env, "HOME": os.environ.get("HOME", "/root")}
        argv = ["nice", "-n", "10", "sh", "-c", script]
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Prepared(repo, process)
    finally:
        end(process)


@contextmanager
def open_product(fleet: Fleet, prepared: Prepared) -> Iterator[Product]:
    with ExitStack() as cleanup:
        droplet, repo = fleet.droplets["web-2"], prepared.repo
        assert prepared.build.wait(400) == 0, (fleet.folder / "product-build.log").read_text()[-3000:]
        secrets = fleet.folder / "secrets"
        secrets.mkdir(mode=0o755)
        for name in ("token", "secret"):
            (secrets / name).write_text(os.urandom(16).hex())
            os.chown(secrets / name, 65534, 65534)
        env_file = fleet.folder / "app.env"
        env_file.write_text(
            f"DATABASE_URL=postgresql://devtools@postgres:5432/devtools\nSECRETS_DIR={secrets}\nPOSTGRES_PASSWORD=x\n"
            f"POSTGRES_IMAGE={POSTGRES}\n"
        )
        droplet.state_name = "product"
        cleanup.callback(end, start_caddy(droplet, repo / "deploy/Caddyfile", {"PUBLIC_HOST": ":80"}))
        more = {"env_file": str(env_file), "watch_urls": ["http://127.0.0.1:2020/health"], "ports": 23000}
        backup = {"backup": ["/bin/true"], "min_free_mb": 500}
        write_host_config(droplet, fleet.folder / "keys", "dev-tools", **more, **backup)
        fleet.use_hosts("web-2")
        data = ["compose", "-p", "dev-tools-data", "--env-file", env_file, "-f", repo / "deploy/compose.data.yaml"]
        droplet.docker("volume", "create", "dev-tools-workspaces")
        droplet.docker(*data, "up", "-d", "postgres")
        product = Product(fleet, repo, droplet, (secrets / "token").read_text())
        wait_for(lambda: _is_ready(product), 60, "postgres")
        yield product


def _is_ready(product: Product) -> bool:
    try:
        return product.psql("SELECT 1") == "1"
    except AssertionError:
        return False
