"""Two droplets, a registry with signed releases, and an `ssh` that goes to them: for tests of a whole running stack."""

import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.droplet import SIGNER, SOURCE, Droplet, make_droplet, make_release
from devtools_platform.deploy.adapters.oci import OciRegistry
from devtools_platform.deploy.artifacts import Artifacts
from fakes.oci_registry import FakeRegistry

PROGRAM = "import sys; from devtools_platform.deploy.host.session import main; sys.exit(main(sys.argv[1:]))"
SSH = """#!/bin/sh
# The last but one argument is deploy@ADDRESS: here, a droplet's folder beside this program.
while [ $# -gt 2 ]; do shift; done
host="{folder}/${{1#*@}}"
PATH="$host/bin:/usr/bin:/bin" PYTHONPATH="{source}" exec {python} -S -c '{program}' "$host/host.json"
"""


@dataclass
class Fleet:
    folder: Path
    registry: FakeRegistry
    droplets: dict[str, Droplet]

    @property
    def settings(self) -> dict[str, str]:
        """What a stack needs to be told to find it."""
        return {
            "DEV_TOOLS_HOSTS_FILE": str(self.folder / "hosts.yaml"),
            "DEV_TOOLS_REGISTRY": f"{self.registry.host}/acme",
            "DEV_TOOLS_REGISTRY_PLAIN_HTTP": "true",
            "DEV_TOOLS_RELEASE_APPLICATION": "shop",
            "DEV_TOOLS_RELEASE_PUBLIC_KEY": str(self.folder / "release.pub"),
        }

    @property
    def program_folder(self) -> Path:
        """To be first on PATH."""
        return self.folder / "bin"

    def publish(self, seq: int, *, is_bad: bool = False, **more: object) -> None:
        """A release in the registry, as `release build` leaves it; the bad one becomes unhealthy."""
        repository = f"{self.registry.host}/acme/shop-releases"
        _, bundle = make_release(self.registry, seq, is_bad=is_bad, **more)  # type: ignore[arg-type]
        http = OciRegistry(plain=(self.registry.host,))
        Artifacts(http).push_release(repository, bundle, ["latest", f"seq-{seq}"])
        http.close()


def make_fleet(folder: Path, registry: FakeRegistry, *names: str) -> Fleet:
    droplets = {name: make_droplet(folder / name, registry) for name in names}
    (folder / "release.pub").write_bytes(SIGNER.public_pem)
    entries = "\n".join(f"  {name}: {{address: {name}}}" for name in names)
    (folder / "hosts.yaml").write_text(f"hosts:\n{entries}\n")
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(SSH.format(folder=folder, source=SOURCE, python=sys.executable, program=PROGRAM))
    ssh.chmod(0o755)
    return Fleet(folder, registry, droplets)
