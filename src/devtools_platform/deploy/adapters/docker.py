"""Docker on the machine that builds: compose files read, images built without a name, pushed one by one.

Parallel pushes compress and send shared layers twice; one by one the registry mounts them (measured).
"""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devtools_platform.core.errors import BadInput, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.deploy.interfaces import Built, ComposeFile, Progress

BUILD_S = 3600
COMMAND_S = 600
LABEL = "dev-tools.build"
_LAYER = re.compile(r"^ ---> ([0-9a-f]{12})$", re.MULTILINE)
"""How the classic builder names what it has made so far. BuildKit leaves no images behind when it fails."""


@dataclass(frozen=True)
class Docker:
    """`Builder` with the docker command line. `environment` is all it sees of ours."""

    environment: Mapping[str, str]
    layers: list[str] = field(default_factory=list[str])
    """What builds of this object have made, oldest first."""

    def read_compose(self, file: Path) -> ComposeFile:
        """Raises `BadInput` with what compose says is wrong; it checks against the compose specification."""
        try:
            text = file.read_text()
        except OSError as error:
            raise BadInput(f"{str(file)!r} cannot be read: {error.strerror}.", hint="Pass --compose FILE.") from None
        argv = ["docker", "compose", "--file", str(file), "config", "--no-interpolate", "--format", "json"]
        run = self._start(argv, COMMAND_S)
        if "unknown flag: --file" in run.stderr or "is not a docker command" in run.stderr:
            raise ProgramFailed(
                "Docker has no compose plugin here.", hint="Install docker-compose-plugin, 2.0 or newer."
            )
        if run.returncode != 0:
            raise BadInput(
                f"{file} is no valid compose file: {run.stderr.strip()[-1000:]}", hint=f"Try `{' '.join(argv)}`."
            )
        return ComposeFile(text, json.loads(run.stdout))

    def build(self, compose: ComposeFile, build_id: str, progress: Progress) -> Sequence[Built]:
        """Services that are built alike share one image. Raises `ProgramFailed`."""
        done: dict[str, str] = {}
        built: list[Built] = []
        for service, model in sorted(compose.model["services"].items()):
            recipe = model.get("build")
            if not recipe:
                raise BadInput(f"Service {service!r} has no `build`.", hint="A release consists of images we build.")
            began = time.perf_counter()
            key = json.dumps(recipe, sort_keys=True)
            if key not in done:
                progress(service, "building")
                done[key] = self._build(recipe, build_id)
            built.append(Built(service, done[key], time.perf_counter() - began))
        return built

    def push(self, built: Built, reference: str) -> None:
        self._run(["docker", "tag", built.image_id, reference], COMMAND_S)
        self._run(["docker", "push", "--quiet", reference], BUILD_S)

    def clean(self, build_id: str) -> int:
        """Remove this build's images that have no name, newest first; what another image is made from stays."""
        listed = self._run(["docker", "image", "ls", "--quiet", "--filter", f"label={LABEL}={build_id}"], COMMAND_S)
        removed = 0
        for id_ in [*sorted(set(listed.split())), *reversed(self.layers)]:
            argv = ["docker", "image", "inspect", "--format", "{{len .RepoTags}}{{len .RepoDigests}}", id_]
            if self._start(argv, COMMAND_S).stdout.strip() == "00":
                removed += self._start(["docker", "image", "rm", id_], COMMAND_S).returncode == 0
        self.layers.clear()
        return removed

    def save(self, image_id: str, file: Path) -> None:
        """The image as a tar archive."""
        self._run(["docker", "save", "--output", str(file), image_id], COMMAND_S)

    def _build(self, recipe: Mapping[str, Any], build_id: str) -> str:
        context = Path(recipe["context"])
        dockerfile = context / recipe.get("dockerfile", "Dockerfile")
        with tempfile.TemporaryDirectory() as folder:
            id_file = Path(folder, "id")
            argv = ["docker", "build", "--force-rm", "--iidfile", str(id_file), "--label", f"{LABEL}={build_id}"]
            argv += ["--file", str(dockerfile)]
            argv += ["--target", recipe["target"]] if recipe.get("target") else []
            build_args: Mapping[str, Any] = recipe.get("args") or {}
            for name, value in build_args.items():
                argv += ["--build-arg", f"{name}={value}"]
            run = self._start([*argv, str(context)], BUILD_S)
            self.layers.extend(_LAYER.findall(run.stdout))
            if run.returncode != 0:
                raise _failed(argv, run)
            return id_file.read_text().strip()

    def _run(self, argv: list[str], timeout_s: float) -> str:
        run = self._start(argv, timeout_s)
        if run.returncode != 0:
            raise _failed(argv, run)
        return run.stdout

    def _start(
        self, argv: list[str], timeout_s: float, extra: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        env = {**self.environment, **(extra or {})}
        try:
            return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=timeout_s, check=False)
        except FileNotFoundError:
            raise ProgramFailed(
                "There is no `docker` command.", hint="Install Docker with the compose plugin."
            ) from None
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{' '.join(argv[:3])} did not end in {timeout_s:g} s.", hint="Try again.") from None


def _failed(argv: Sequence[str], run: "subprocess.CompletedProcess[str]") -> ProgramFailed:
    words = redact_text((run.stdout + run.stderr).strip()[-2000:])
    return ProgramFailed(f"{' '.join(argv[:2])} failed:\n{words}", hint="Mend that, then build again.")
