"""Real machines in miniature: network namespaces, each with its own Docker engine, sshd and Caddy; a registry between.

Nothing of the host is changed: bridges, addresses and firewall rules live in the namespaces and go with them.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devtools_platform.app.host_program import build_host_program

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CI_ADDRESS = "10.98.0.1"
REGISTRY = f"{CI_ADDRESS}:5000"
HOSTS = {"web-1": "10.98.0.2", "web-2": "10.98.0.3"}
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECOND = HERE.parents[1] / "build/second-engine"
"""Another engine and compose, unpacked and not installed by `second_engine.sh`: `web-2` runs on them."""
MEMORY_GB = 12
"""With so much of it free, what the engines write stays in memory: nobody looks at it after the run."""
NEEDED = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "prometheus": "prometheus",
}


def why_not() -> str | None:
    """What keeps an engine from running here; None when nothing does."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        return "it needs root: network namespaces and a Docker engine"
    missing = sorted({package for name, package in NEEDED.items() if shutil.which(name, path=path) is None})
    if missing:
        return f"Debian packages are missing: {' '.join(missing)}. Run .ci/install-docker."
    if programs := [name for name in ("caddy", "docker-compose") if not (BIN / name).exists()]:
        return f"not installed from requirements/deploy-test.txt: {', '.join(programs)}"
    if not (SECOND / "docker-compose").exists():
        return f"there is no second engine: {HERE.name}/second_engine.sh {SECOND} fetches it"
    return None


def run(
    *argv: str | Path, env: Mapping[str, str] | None = None, check: bool = True, timeout: float = 240, **more: Any
) -> str:
    done = subprocess.run(
        [str(arg) for arg in argv], capture_output=True, text=True, env=env, check=False, timeout=timeout, **more
    )
    assert done.returncode == 0 or not check, f"{argv}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass
class Machine:
    """A namespace with an engine. `name` is what `ip netns` calls it."""

    label: str
    name: str
    address: str
    folder: Path
    second: bool = False
    """Whether it runs on the second engine and compose."""
    state_name: str = "state"

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{SECOND}/root/usr/sbin:{SECOND}/root/usr/bin:{SYSTEM}" if self.second else SYSTEM,
            "HOME": str(self.folder),
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "docker-config"),
        }

    @property
    def state(self) -> Path:
        return self.folder / self.state_name

    def docker(self, *args: str | Path, check: bool = True) -> str:
        return run("docker", *args, env=self.env, check=check)

    def get(self, url: str) -> tuple[int, str]:
        program = (
            "import sys, urllib.request, urllib.error\n"
            "try: r = urllib.request.urlopen(sys.argv[1], timeout=5); print(r.status); print(r.read().decode())\n"
            "except urllib.error.HTTPError as e: print(e.code); print(e.read().decode())\n"
        )
        status, _, body = run(*self.enter, sys.executable, "-S", "-c", program, url).partition("\n")
        return int(status), body.strip()


@dataclass
class Fleet:
    """A machine that builds and deploys, and droplets."""

    folder: Path
    ci: Machine
    droplets: dict[str, Machine]
    env: dict[str, str] = field(default_factory=dict[str, str])

    def cli(self, *args: str | Path, env: Mapping[str, str] | None = None, code: int | None = 0) -> Any:
        """Run our command on the CI machine with `--json`; what it printed. `code` None takes any exit code."""
        ended, out, err = self.call(*args, "--json", env=env)
        assert code is None or ended == code, f"{args}: exit {ended}\n{out[-3000:]}\n{err[-3000:]}"
        return json.loads(out)

    def call(
        self, *argv: str | Path, script: Path | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int | None, str, str]:
        """Our command, or a script beside it, as a fork of `warm.py`. Exit code (None: killed), output, errors."""
        warm = self.folder / "warm.sock"
        wait_for(warm.exists, 30, "warm.py", self.ci.folder / "warm.log")
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, socket.socket(socket.AF_UNIX) as connection:
            out, err = Path(folder, "out"), Path(folder, "err")
            asked = {"argv": [*map(str, argv)], "script": script and str(script), "out": str(out), "err": str(err)}
            connection.settimeout(300)
            connection.connect(str(warm))
            connection.sendall(json.dumps({**asked, "env": {**self.env, **(env or {})}}).encode() + b"\n")
            code = connection.recv(16)
            return int(code) if code else None, out.read_text(), err.read_text()

    def start_cli(self, *args: str | Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        return self.start(str(BIN / "dev-tools"), *args, "--json", env=env)

    def start(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, stdin: int | None = None
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.ci.enter, *map(str, argv)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.folder,
            start_new_session=True,
        )

    def use_hosts(self, *names: str) -> None:
        self.write_hosts(self.folder / "hosts.yaml", *names)

    def only(self, name: str) -> dict[str, str]:
        """An environment in which there is one droplet: two deployers can then work side by side."""
        file = self.folder / f"hosts-{name}.yaml"
        self.write_hosts(file, name)
        return {"DEV_TOOLS_HOSTS_FILE": str(file)}

    def write_hosts(self, file: Path, *names: str) -> None:
        hosts = {
            name: {
                "address": HOSTS[name],
                "user": "root",
                "port": 2222,
                "identity_file": str(self.folder / "ssh_key"),
                "known_hosts": str(self.folder / "known_hosts"),
            }
            for name in names
        }
        file.write_text(json.dumps({"hosts": hosts}))


@contextmanager
def open_fleet(folder: Path) -> Iterator[Fleet]:
    """Build it, and leave nothing behind: no process, namespace or mount."""
    with ExitStack() as cleanup:
        _keep_in_memory(folder, cleanup)
        names = {label: f"dt{os.getpid()}-{label}" for label in ("ci", *HOSTS)}
        addresses = {"ci": CI_ADDRESS, **HOSTS}
        machines = {
            label: Machine(label, name, addresses[label], folder / label, second=label == "web-2")
            for label, name in names.items()
        }
        _connect(machines, cleanup)
        fleet = Fleet(folder, machines["ci"], {name: machines[name] for name in HOSTS})
        fleet.env = _cli_env(fleet)
        _start_commands(fleet, cleanup)
        for machine in machines.values():
            _start_engine(machine, cleanup)
        for machine in machines.values():
            _await_engine(machine)
        _start_registry(fleet.ci, cleanup)
        _make_keys(fleet)
        for machine in fleet.droplets.values():
            _start_sshd(fleet, machine, cleanup)
        yield fleet


def _keep_in_memory(folder: Path, cleanup: ExitStack) -> None:
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found and int(found[1]) > MEMORY_GB * 1_000_000:
        run("mount", "-t", "tmpfs", "-o", f"size={MEMORY_GB}g,mode=0755", "e2e-deploy", folder)
        cleanup.callback(run, "umount", "-l", folder, check=False)


def _connect(machines: Mapping[str, Machine], cleanup: ExitStack) -> None:
    for machine in machines.values():
        machine.folder.mkdir()
        run("ip", "netns", "add", machine.name)
        cleanup.callback(run, "ip", "netns", "del", machine.name, check=False)
        run("ip", "-n", machine.name, "link", "set", "lo", "up")
    ci = machines["ci"]
    run("ip", "-n", ci.name, "link", "add", "br0", "type", "bridge")
    run("ip", "-n", ci.name, "addr", "add", f"{ci.address}/24", "dev", "br0")
    run("ip", "-n", ci.name, "link", "set", "br0", "up")
    for number, machine in enumerate(list(machines.values())[1:], 1):
        ends = ["netns", ci.name, "type", "veth", "peer", "name", "eth0", "netns", machine.name]
        run("ip", "link", "add", f"v{number}", *ends)
        run("ip", "-n", ci.name, "link", "set", f"v{number}", "master", "br0")
        run("ip", "-n", ci.name, "link", "set", f"v{number}", "up")
        run("ip", "-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        run("ip", "-n", machine.name, "link", "set", "eth0", "up")


def _start_engine(machine: Machine, cleanup: ExitStack) -> None:
    """Enters the network namespace only: `ip netns exec` would hide the cgroup mounts."""
    at = machine.folder
    plugins = at / "docker-config/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to((SECOND if machine.second else BIN) / "docker-compose")
    dockerd = SECOND / "root/usr/sbin/dockerd" if machine.second else "dockerd"
    argv = [dockerd, "-H", f"unix://{at}/docker.sock", "--data-root", at / "data"]
    argv += ["--exec-root", at / "exec"]
    argv += ["--pidfile", at / "docker.pid", "--storage-driver", "overlay2", "--insecure-registry", REGISTRY]
    argv += ["--bip", "172.29.0.1/24", "--default-address-pool", "base=172.30.0.0/16,size=24"]
    process = start_service(machine, "dockerd", [*map(str, argv)])

    def stop() -> None:
        ids = machine.docker("ps", "-aq", check=False).split()
        if ids:
            machine.docker("rm", "-f", *ids, check=False)
        end(process, 30)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(str(at))), reverse=True):
            run("umount", "-l", mount, check=False)

    cleanup.callback(stop)


def _await_engine(machine: Machine) -> None:
    wait_for(
        lambda: bool(machine.docker("info", "--format", "{{.ID}}", check=False).strip()),
        30,
        "dockerd",
        machine.folder / "dockerd.log",
    )


def _start_registry(machine: Machine, cleanup: ExitStack) -> None:
    config = machine.folder / "registry.yml"
    store = {"filesystem": {"rootdirectory": str(machine.folder / "registry")}, "delete": {"enabled": True}}
    config.write_text(
        json.dumps({"version": 0.1, "storage": store, "http": {"addr": REGISTRY}, "log": {"level": "warn"}})
    )
    process = start_service(machine, "registry", ["docker-registry", "serve", str(config)])
    cleanup.callback(end, process)


def _make_keys(fleet: Fleet) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", fleet.folder / "ssh_key")
    program = fleet.folder / "host.pyz"
    program.write_bytes(build_host_program())
    known: list[str] = []
    for machine in fleet.droplets.values():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", machine.folder / "host_key")
        public = " ".join((machine.folder / "host_key.pub").read_text().split()[:2])
        known.append(f"[{machine.address}]:2222 {public}")
    (fleet.folder / "known_hosts").write_text("\n".join(known) + "\n")


def _start_sshd(fleet: Fleet, machine: Machine, cleanup: ExitStack) -> None:
    """The deployer's key may start the host program, and nothing else."""
    public = (fleet.folder / "ssh_key.pub").read_text().strip()
    forced = f"/usr/bin/python3 -I {fleet.folder}/host.pyz {machine.folder}/host.json"
    (machine.folder / "authorized_keys").write_text(f'restrict,command="{forced}" {public}\n')
    (machine.folder / "sshd_config").write_text(
        f"Port 2222\nListenAddress {machine.address}\nHostKey {machine.folder}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {machine.folder}/authorized_keys\nPermitRootLogin prohibit-password\nStrictModes no\n"
        "PasswordAuthentication no\nClientAliveInterval 2\nClientAliveCountMax 2\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = start_service(machine, "sshd", [_which("sshd"), "-D", "-e", "-f", f"{machine.folder}/sshd_config"])
    cleanup.callback(end, process)
    probe = [*machine.enter, "bash", "-c", f"exec 3<>/dev/tcp/{machine.address}/2222"]
    wait_for(
        lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0,
        10,
        "sshd",
        machine.folder / "sshd.log",
    )


def _start_commands(fleet: Fleet, cleanup: ExitStack) -> None:
    """It imports for seconds, in which the engines start; the first call waits for it."""
    argv = [sys.executable, str(HERE / "warm.py"), str(fleet.folder / "warm.sock")]
    process = start_service(fleet.ci, "warm", argv, {**fleet.env, "PYTHONUNBUFFERED": "1"}, cwd=fleet.folder)
    cleanup.callback(end, process)


def start_caddy(machine: Machine, caddyfile: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    argv = [str(BIN / "caddy"), "run", "--adapter", "caddyfile", "--config", str(caddyfile)]
    machine.state.mkdir(exist_ok=True)
    (machine.state / "check").write_text("up")
    process = start_service(machine, "caddy", argv, {"STATE": str(machine.state), **env})
    wait_for(lambda: answers(machine, "http://127.0.0.1:2020/"), 15, "caddy", machine.folder / "caddy.log")
    return process


def write_host_config(machine: Machine, keys: Path, application: str, **more: Any) -> None:
    config = {
        "application": application,
        "state_dir": str(machine.state),
        "keys_dir": str(keys),
        "repositories": [f"{REGISTRY}/acme/{application}-"],
        "plain_registries": [REGISTRY],
        "environment": {key: value for key, value in machine.env.items() if key.startswith("DOCKER")},
        **more,
    }
    (machine.folder / "host.json").write_text(json.dumps(config))


def start_service(
    machine: Machine, name: str, argv: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> "subprocess.Popen[bytes]":
    log = (machine.folder / f"{name}.log").open("ab")
    with log:
        return subprocess.Popen(
            [*machine.enter, *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**machine.env, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )


def end(process: "subprocess.Popen[Any]", timeout: float = 10) -> None:
    """Ask, wait, then kill the whole group."""
    if process.poll() is None:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(check: Callable[[], bool], timeout: float, what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            words = log.read_text()[-3000:] if log and log.exists() else ""
            raise AssertionError(f"{what} did not come within {timeout:g} s\n{words}")
        time.sleep(0.05)


def answers(machine: Machine, url: str) -> bool:
    try:
        return machine.get(url)[0] == 200
    except AssertionError:
        return False


def _which(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
    assert found, name
    return found


def _cli_env(fleet: Fleet) -> dict[str, str]:
    return {
        **fleet.ci.env,
        "USER": "ada",
        "PYTHONPATH": str(HERE.parents[1] / "src"),
        "PATH": f"{BIN}:{fleet.ci.env['PATH']}",
        "DEV_TOOLS_REGISTRY": f"{REGISTRY}/acme",
        "DEV_TOOLS_REGISTRY_PLAIN_HTTP": "true",
        "DEV_TOOLS_RELEASE_KEY": str(fleet.folder / "cosign.key"),
        "DEV_TOOLS_RELEASE_KEY_PASSWORD": "correct horse",
        "DEV_TOOLS_HOSTS_FILE": str(fleet.folder / "hosts.yaml"),
    }
