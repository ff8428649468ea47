"""The droplet's program as one file, and the script that prepares a droplet for it."""

import base64
import io
import zipfile
from importlib import resources
from pathlib import Path

from devtools_platform.core.errors import BadInput
from devtools_platform.deploy.host.session import own_hash

_MAIN = """import sys
from devtools_platform.deploy.host.session import main
sys.exit(main(sys.argv[1:]))
"""


def build_host_program() -> bytes:
    """A Python zip application: standard library only. The same source makes the same bytes."""
    package = resources.files("devtools_platform.deploy.host")
    files = {"__main__.py": _MAIN, "devtools_platform/__init__.py": "", "devtools_platform/deploy/__init__.py": ""}
    for entry in sorted(package.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".py"):
            files[f"devtools_platform/deploy/host/{entry.name}"] = entry.read_text()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return b"#!/usr/bin/env python3\n" + out.getvalue()


def host_program_hash() -> str:
    """What an up-to-date droplet says its program is."""
    return own_hash()


def bootstrap_script(
    *, application: str, registry: str, release_key: bytes, ssh_key: str, public_ports: tuple[int, ...] = (80, 443)
) -> str:
    """A shell script for a person to read and run as root on a fresh Debian 12 or Ubuntu 24.04 droplet."""
    template = resources.files("devtools_platform.deploy").joinpath("bootstrap.sh").read_text()
    values = {
        "@APPLICATION@": application,
        "@REPOSITORIES@": f"{registry.rstrip('/')}/{application}-",
        "@RELEASE_KEY@": release_key.decode().strip(),
        "@SSH_KEY@": ssh_key.strip(),
        "@PORTS@": " ".join(str(port) for port in public_ports),
        "@PROGRAM@": base64.encodebytes(build_host_program()).decode().strip(),
    }
    for name, value in values.items():
        template = template.replace(name, value)
    return template


def read_ssh_key(file: Path) -> str:
    """A public SSH key of one line. Raises `BadInput`: for a private key above all, as this goes into a script."""
    try:
        first = (file.read_text().strip().splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error}.", hint="Name the .pub file of `ssh-keygen`.") from None
    if not first.startswith(("ssh-", "ecdsa-", "sk-")):
        raise BadInput(f"{str(file)!r} is no public SSH key.", hint="Name the .pub file of `ssh-keygen`.")
    return first
