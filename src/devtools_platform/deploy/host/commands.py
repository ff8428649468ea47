"""Every command the host program gives to Docker, as a value. There is no verb here that can remove a volume.

`docker system prune --volumes` deleted named volumes with data (Engine 20.10, measured); so a command is not only
built here, it is also checked: a verb that is not in the list, or a flag that reaches volumes, cannot be expressed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VERBS = frozenset(
    {
        ("info",),
        ("pull",),
        ("ps",),
        ("inspect",),
        ("logs",),
        ("image", "inspect"),
        ("image", "ls"),
        ("image", "rm"),
        ("volume", "ls"),
        ("compose", "version"),
        ("compose", "config"),
        ("compose", "up"),
        ("compose", "down"),
        ("compose", "exec"),
    }
)
_FLAGS_WITH_VALUE = frozenset({"--project-name", "--file", "--env-file", "--project-directory"})
_REACH_VOLUMES = ("-v", "--volumes", "--renew-anon-volumes", "-V", "--rmi")


class Forbidden(ValueError):
    """A command that this program must never give."""


@dataclass(frozen=True)
class Command:
    """`docker` with these arguments. Raises `Forbidden` for what is not in the list."""

    args: tuple[str, ...]
    verb: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        verb = _read_verb(self.args)
        if verb not in VERBS:
            raise Forbidden(f"docker {' '.join(self.args[:4])} is not among the commands of a rollout.")
        if verb != ("compose", "exec") and any(_reaches_volumes(arg) for arg in self.args):
            raise Forbidden(f"docker {' '.join(verb)} may not carry a flag that reaches volumes.")
        object.__setattr__(self, "verb", verb)

    @property
    def argv(self) -> list[str]:
        return ["docker", *self.args]


@dataclass(frozen=True)
class Project:
    """One colour of an application: a compose project of its own, from the files of one release."""

    name: str
    files: tuple[Path, ...]
    folder: Path
    env_file: Path | None = None

    def up(self) -> Command:
        """Start it from images that are already here."""
        return self._compose("up", "--detach", "--no-build", "--pull", "never", "--quiet-pull", "--remove-orphans")

    def config(self) -> Command:
        return self._compose("config", "--format", "json")

    def execute(self, service: str, command: Sequence[str]) -> Command:
        """Run a command in a container of it that runs."""
        return self._compose("exec", "-T", service, *command)

    def _compose(self, verb: str, *args: str) -> Command:
        files = [part for file in self.files for part in ("--file", str(file))]
        env = ["--env-file", str(self.env_file)] if self.env_file else []
        return Command(
            ("compose", "--project-name", self.name, "--project-directory", str(self.folder), *files, *env, verb, *args)
        )


def down(project: str, timeout_s: int = 10) -> Command:
    """Stop and remove a project's containers and its own network; its volumes stay, whatever they are."""
    return Command(("compose", "--project-name", project, "down", "--timeout", str(timeout_s)))


def pull(image: str) -> Command:
    return Command(("pull", "--quiet", image))


def list_containers(project: str, *, everything: bool = True) -> Command:
    args = ("ps", "--quiet", "--no-trunc", "--filter", f"label=com.docker.compose.project={project}")
    return Command((*args, "--all") if everything else args)


def inspect(ids: Sequence[str]) -> Command:
    return Command(("inspect", *ids))


def inspect_image(image: str) -> Command:
    return Command(("image", "inspect", image))


def list_images() -> Command:
    return Command(("image", "ls", "--digests", "--no-trunc", "--format", "{{.Repository}}@{{.Digest}}"))


def remove_image(image: str) -> Command:
    """Remove one image by its digest. The engine refuses while a container uses it."""
    return Command(("image", "rm", image))


def list_volumes() -> Command:
    return Command(("volume", "ls", "--quiet"))


def logs(container: str, lines: int) -> Command:
    return Command(("logs", "--tail", str(lines), container))


def info() -> Command:
    return Command(("info", "--format", "{{json .}}"))


def compose_version() -> Command:
    return Command(("compose", "version", "--short"))


def override(images: Mapping[str, str], ports: Mapping[str, Sequence[str]], release: str) -> dict[str, object]:
    """A compose file over the release's own: every image by digest, the colour's ports, a label with the release."""
    services: dict[str, object] = {}
    for service, image in images.items():
        entry: dict[str, object] = {"image": image, "labels": {"dev-tools.release": release}}
        if service in ports:
            entry["ports"] = list(ports[service])
        services[service] = entry
    return {"services": services}


def _read_verb(args: Sequence[str]) -> tuple[str, ...]:
    words: list[str] = []
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg in _FLAGS_WITH_VALUE:
            skip = True
        elif not arg.startswith("-"):
            words.append(arg)
            if (tuple(words) in VERBS) or len(words) == 2:  # noqa: PLR2004 - no verb of docker's has more words
                break
        else:
            break
    return tuple(words)


def _reaches_volumes(arg: str) -> bool:
    return any(arg == flag or arg.startswith(f"{flag}=") for flag in _REACH_VOLUMES)
