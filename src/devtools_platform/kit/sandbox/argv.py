"""The bubblewrap command line, as a value: what a sandboxed command can see is decided here and nowhere else."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools_platform.kit.sandbox.types import Limits, SandboxInfo

WORKSPACE = Path("/workspace")
LAUNCHER = Path("/run/dev-tools/launch.py")
HOME = "/tmp/home"  # noqa: S108 - inside the sandbox, where /tmp is its own
UID = "1000"
#: The few files programs need: users, name resolution of localhost, certificates, the linker's cache, time zone.
ETC = ("alternatives", "group", "hosts", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "passwd", "ssl")


def sandbox_argv(
    info: SandboxInfo,
    command: Sequence[str],
    *,
    workspace: Path,
    limits: Limits,
    is_writable: bool = True,
    read_only_paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """The whole command line that runs `command` in `/workspace` of a fresh sandbox."""
    shown = [*interpreter_paths(), *read_only_paths]
    return [
        str(info.bwrap),
        *("--unshare-all", "--unshare-user", "--uid", UID, "--gid", UID, "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
        *_system(),
        *("--proc", "/proc", "--dev", "/dev"),
        *(part for folder in ("/tmp", "/home", "/root", "/run", "/var") for part in ("--tmpfs", folder)),  # noqa: S108
        *("--dir", HOME),
        *(part for path in _outermost(shown) for part in ("--ro-bind", str(path), str(path))),
        *_workspace(workspace, is_writable=is_writable),
        *("--ro-bind", str(Path(__file__).with_name("launch.py")), str(LAUNCHER)),
        *(part for item in command_env(env).items() for part in ("--setenv", *item)),
        *("--chdir", str(WORKSPACE), "--"),
        *launcher_argv(info, command, limits, is_writable=is_writable),
    ]


def launcher_argv(info: SandboxInfo | None, command: Sequence[str], limits: Limits, *, is_writable: bool) -> list[str]:
    """The program that takes away what is left, then becomes `command`. Without `info` it only sets limits."""
    launcher = LAUNCHER if info else Path(__file__).with_name("launch.py")
    writable = [str(WORKSPACE)] if is_writable else []
    landlock = ["--write", *writable, "/tmp", "/dev"] if info and info.landlock else []  # noqa: S108
    return [
        *(sys.executable, "-I", "-S", str(launcher)),
        *(f"--memory-mb={limits.memory_mb}", f"--processes={limits.processes}", f"--file-mb={limits.file_mb}"),
        *landlock,
        "--",
        *command,
    ]


def command_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """All a command sees of an environment."""
    here = Path(sys.executable).parent
    return {
        "PATH": f"{here}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        **(env or {}),
    }


def interpreter_paths() -> list[Path]:
    """Where the interpreter we run, and its packages, lie."""
    return [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Without those that lie below another or below /usr, which is there anyway."""
    wanted = sorted({path for path in paths if not path.is_relative_to("/usr")}, key=lambda path: len(path.parts))
    kept: list[Path] = []
    for path in wanted:
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return kept


def _system() -> list[str]:
    parts = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/", name)
        if path.is_symlink():  # merged /usr, as on every current distribution
            parts += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            parts += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        parts += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return parts


def _workspace(workspace: Path, *, is_writable: bool) -> list[str]:
    parts = ["--bind" if is_writable else "--ro-bind", str(workspace), str(WORKSPACE)]
    if (workspace / ".git").is_dir():
        # What is written there is read by our own git, outside.
        parts += ["--ro-bind", str(workspace / ".git"), str(WORKSPACE / ".git")]
    return parts
