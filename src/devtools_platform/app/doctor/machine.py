"""What a stack needs of this machine: programs, room, ports, a sandbox, a model."""

import asyncio
import shutil
import socket
import sys
from importlib.util import find_spec

from devtools_platform.agents.adapters import embedded_model, endpoints
from devtools_platform.app.doctor.types import Check
from devtools_platform.app.home import Home
from devtools_platform.app.releases import current_release
from devtools_platform.app.sandbox import sandbox_of
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError
from devtools_platform.kit.sandbox import find_sandbox


async def check_version(_: Settings) -> Check:
    release = current_release()
    return Check("version", is_ok=True, found=f"{release.version}, commit {release.git_sha or 'unknown'}")


async def check_python(_: Settings) -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    is_ok = sys.version_info >= (3, 11)
    return Check("python", is_ok, found, "" if is_ok else "Install Python 3.11 or newer.")


async def check_git(_: Settings) -> Check:
    path = shutil.which("git")
    if path is None:
        return Check("git", is_ok=False, found="not on PATH", fix="Install git (Debian: `apt-get install git`).")
    return Check("git", is_ok=True, found=path)


async def check_data_dir(settings: Settings) -> Check:
    try:
        Home.of(settings).prepare()
    except DevToolsError as error:
        return Check("data directory", is_ok=False, found=str(error), fix=error.hint)
    return Check("data directory", is_ok=True, found=str(settings.data_dir))


async def check_disk(settings: Settings) -> Check:
    folder = settings.data_dir if settings.data_dir.is_dir() else settings.data_dir.anchor
    free_mb = shutil.disk_usage(folder).free // 2**20
    is_ok = free_mb >= settings.min_free_disk_mb
    fix = "" if is_ok else f"Free some room; {settings.min_free_disk_mb} MB are needed."
    return Check("disk", is_ok, f"{free_mb} MB free", fix)


async def check_sandbox(settings: Settings) -> Check:
    try:
        info = await asyncio.to_thread(find_sandbox, sandbox_of(settings))
    except DevToolsError as error:
        return Check("sandbox", is_ok=False, found=str(error), fix=error.hint)
    landlock = f"Landlock ABI {info.landlock}" if info.landlock else "no Landlock"
    return Check("sandbox", is_ok=True, found=f"{info.kind}, {landlock}")


async def check_ports(settings: Settings) -> Check:
    home = Home.of(settings)
    if home.is_locked():
        return Check("ports", is_ok=True, found="in use by this stack, which is running")
    taken = [
        f"{name}_port {port}"
        for name in ("gateway", "context", "state", "console")
        if (port := getattr(settings, f"{name}_port")) and not _can_bind(settings.host, port)
    ]
    fix = "Free them, or set DEV_TOOLS_GATEWAY_PORT and the like (0 takes any free port)." if taken else ""
    return Check("ports", not taken, ", ".join(taken) + " taken" if taken else "free", fix)


def _can_bind(host: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


async def check_embedded_model(settings: Settings) -> Check:
    cached = embedded_model.find_cached(settings.cache_dir)
    if cached is None:
        return Check("embedded model", is_ok=True, found="not fetched (optional: `dev-tools model pull`)")
    if find_spec("xllamacpp") is None:
        fix = "Install its runtime: `pip install 'devtools-platform[local]'`."
        return Check("embedded model", is_ok=False, found="fetched, but its runtime is missing", fix=fix)
    return Check("embedded model", is_ok=True, found=str(cached))


async def check_model(settings: Settings) -> Check:
    if settings.model_script is not None:
        return Check("model", is_ok=True, found=f"scripted by {settings.model_script}")
    try:
        endpoint = await endpoints.choose_endpoint(settings)
        if endpoint.provider != "embedded":
            await endpoints.check_endpoint(endpoint)
            return Check("model", is_ok=True, found=f"{endpoint.model} at {endpoint.base_url}")
    except DevToolsError as error:
        return Check("model", is_ok=False, found=str(error), fix=error.hint)
    has_file = settings.model_file is not None or embedded_model.find_cached(settings.cache_dir) is not None
    if has_file:
        return Check("model", is_ok=True, found="embedded")
    return Check("model", is_ok=False, found="none", fix=endpoints.NO_MODEL_HINT)


async def check_runtimes(settings: Settings) -> Check:
    """The environments file, as far as it can be judged without starting anything."""
    from devtools_platform.app.runtimes import describe_runtimes  # brings the models' client: only when asked

    try:
        listed = describe_runtimes(settings)
    except DevToolsError as error:
        return Check("runtimes", is_ok=False, found=str(error), fix=error.hint)
    kinds = sorted({runtime["runtime"] for agent in listed for runtime in agent["runtimes"]})
    return Check("runtimes", is_ok=True, found=f"{len(listed)} agents on {', '.join(kinds)}")
