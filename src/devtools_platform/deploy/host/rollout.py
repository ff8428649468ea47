"""The steps of a rollout on one droplet. The caller holds the lock; each step leaves a state that can be gone on from.

`current.json` is what this host returns to. It changes in `commit` only, so whatever dies before that is undone.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools_platform.deploy.host import commands, traffic
from devtools_platform.deploy.host.commands import Project
from devtools_platform.deploy.host.engine import Engine, Say
from devtools_platform.deploy.host.registry import Registry
from devtools_platform.deploy.host.store import Refused, Store, other, read_json, write_json, write_text
from devtools_platform.deploy.host.verify import Offered, hash_of, verify_release

BEFORE_FLIP = frozenset({"verify", "health", "probe"})
"""What must be done in a rollout before requests may reach the new colour, whatever a plan says."""
MIN_ENGINE = (20, 10)
MIN_COMPOSE = (2, 0)
NOTHING_THERE = 3
"""How the command that judges traces says that there are none yet: the first release has none."""

Args = Mapping[str, Any]


@dataclass
class HostRollout:
    """One droplet, one rollout at a time."""

    store: Store
    engine: Engine
    actor: str
    say: Say

    def call(self, action: str, args: Args) -> dict[str, Any]:
        """Carry out one step. Raises `Refused`."""
        step = _STEPS.get(action)
        if step is None:
            raise Refused("bad_input", f"There is no step {action!r}.", f"The steps are {', '.join(_STEPS)}.")
        done = step(self, args) or {}
        journal = self.store.journal()
        if journal is not None and action not in journal["done"]:
            self.store.write_journal({**journal, "done": [*journal["done"], action]})
        return done

    def state(self, _: Args) -> dict[str, Any]:
        """What a plan is made from."""
        live = self.store.live()
        idle = read_json(self._colour_file(other(live)))
        return {
            "application": self.store.config.application,
            "current": self.store.current(),
            "live": live,
            "journal": self.store.journal(),
            "idle": idle and idle | {"is_up": bool(self.engine.containers(self._name(other(live))))},
            "recorded": self.store.recorded(),
        }

    def begin(self, args: Args) -> None:
        if self.store.journal() is not None:
            raise Refused("interrupted", "An earlier rollout was interrupted.", "Run `dev-tools rollout status`.")
        live = self.store.live()
        colour = other(live)
        if args["colour"] != colour:
            raise Refused("stale_plan", f"The plan would use {args['colour']}; idle is {colour}.", "Plan anew.")
        entry = {key: args[key] for key in ("rollout", "plan", "kind", "seq", "colour")}
        volumes = self.engine.volumes()
        fresh = {"from": live, "phase": "staging", "done": [], "volumes": volumes, "model": args.get("model")}
        self.store.write_journal(entry | fresh)
        self.store.record(self.actor, "begin", entry)

    def preflight(self, args: Args) -> dict[str, Any]:
        """Engine, compose, disk, clock, Caddy: what would otherwise fail in the middle."""
        config = self.store.config
        facts = json.loads(self.engine.run(commands.info()))
        engine, compose = facts["ServerVersion"], self.engine.run(commands.compose_version()).strip()
        if _version(engine) < MIN_ENGINE or _version(compose) < MIN_COMPOSE:
            raise Refused(
                "preflight", f"Engine {engine}, compose {compose}; needed are 20.10 and 2.0.", "Update Docker."
            )
        free = self.engine.free_mb()
        if free is not None and free < config.min_free_mb:
            raise Refused(
                "disk_full", f"{free} MB are free; {config.min_free_mb} are needed.", "`dev-tools rollout prune`."
            )
        skew = time.time() - float(args["now"])
        if abs(skew) > config.max_clock_skew_s:
            raise Refused(
                "clock", f"The clocks differ by {skew:.0f} s.", "Set up time synchronisation (`timedatectl`)."
            )
        traffic.check_caddy(self.store, args["nonce"])
        return {"engine": engine, "compose": compose, "free_mb": free, "clock_skew_s": round(skew, 2)}

    def verify(self, args: Args) -> dict[str, Any]:
        """Check the release that is offered, or the recorded one again, and keep it with what proves it."""
        journal = self._journal()
        is_rollback = journal["kind"] != "deploy"
        if is_rollback:
            offered, source = self._stored(journal["seq"])
        else:
            offered = Offered(base64.b64decode(args["envelope"]), args["compose"], args["config"])
            source = _Remembering(Registry(self.store.config.plain_registries, _login(args)))
        recorded = self.store.recorded()
        manifest = verify_release(
            offered,
            self.store.config,
            current=self.store.current(),
            recorded=recorded,
            signatures=source,
            is_rollback=is_rollback,
        )
        if manifest["seq"] != journal["seq"]:
            raise Refused(
                "tampered", f"Planned was release {journal['seq']}, offered is {manifest['seq']}.", "Plan anew."
            )
        if not is_rollback:
            self._keep(offered, manifest, source.found)
        if journal["kind"] != "return":  # nothing is started then, and going back must be quick
            self._check_compose(manifest)
        return {"git_sha": manifest["git_sha"], "images": manifest["images"]}

    def pull(self, args: Args) -> None:
        login = _login(args)
        for service, image in self._manifest()["images"].items():
            if self.engine.start(commands.inspect_image(image).argv, 30).returncode != 0:
                self.say(f"pulling {service}")
                self.engine.pull(image, login)

    def backup(self, _: Args) -> None:
        """Save the database before a release that migrates it; without a program for that, refuse."""
        if not self.store.config.backup:
            text = "The release changes the database, and this host has no `backup` program."
            raise Refused("no_backup", text, "Name one in /etc/dev-tools/host.json (docs/how-to/deploy.md).")
        result = self.engine.start(list(self.store.config.backup), 3600)
        if result.returncode != 0:
            raise Refused("backup_failed", f"The backup failed: {(result.stdout + result.stderr)[-800:]}")

    def start(self, args: Args) -> dict[str, Any]:
        """Bring the idle colour up beside the one that serves."""
        journal, manifest = self._journal(), self._manifest()
        colour = journal["colour"]
        self.store.write_journal({**journal, "is_touched": True})
        left = traffic.drain(self.store, colour, args.get("drain_s", 10))  # streams of the release before the last
        self.engine.run(commands.down(self._name(colour)))
        ports: dict[str, list[str]] = {}
        for index, endpoint in enumerate(manifest["endpoints"]):
            bind = f"{traffic.address(self.store.config, colour, index)}:{endpoint['port']}"
            ports.setdefault(endpoint["service"], []).append(bind)
        file = self.store.release_folder(manifest["seq"]) / f"{colour}.json"
        write_json(file, commands.override(manifest["images"], ports, str(manifest["seq"])))
        write_json(self._colour_file(colour), {"seq": manifest["seq"], "colour": colour})
        traffic.write_upstreams(self.store, colour, manifest["endpoints"])
        self.engine.run(self._project(colour, manifest["seq"]).up(), extra={"COLOUR": colour})
        return {"streams_cut": left}

    def health(self, args: Args) -> None:
        manifest = self._manifest()
        name = self._name(self._journal()["colour"])
        self.engine.await_health(name, set(manifest["images"]), args.get("health_s", 120), self.say)

    def probe(self, _: Args) -> None:
        """Ask the new colour itself, past Caddy."""
        for url in self._probe_urls(self._journal()["colour"], self._manifest()):
            traffic.probe(url)

    def smoke(self, args: Args) -> None:
        """The release's own short test, in a container of the new colour."""
        for task in self._manifest()["smoke"]:
            code, output = self._execute(task, args)
            if code != 0:
                raise Refused("smoke_failed", f"{' '.join(task['command'])} ended with {code}: {output[-1500:]}")

    def traces(self, args: Args) -> dict[str, Any]:
        """The release's own judgement of the traces that were recorded, in a container of the new colour."""
        task = self._manifest()["traces"]
        code, output = self._execute(task, args)
        if code == NOTHING_THERE:
            return {"verdict": "unknown", "why": output.strip()[-500:]}
        if code != 0:
            text = f"Traces: {' '.join(task['command'])} ended with {code}: {output[-1500:]}"
            raise Refused("gate", text, "Mend what records them, or deploy with --no-gate.")
        return {"verdict": "passed", "why": output.strip()[-500:]}

    def gate(self, _: Args) -> dict[str, Any]:
        """No urgent alert may fire while we change something."""
        prometheus = self.store.config.prometheus
        if prometheus is None:
            return {"verdict": "unknown", "why": "host.json names no Prometheus"}
        if self._journal()["from"] is None:  # what fires then is that nothing is there
            return {"verdict": "unknown", "why": "nothing serves yet that could be well"}
        if firing := traffic.firing_alerts(prometheus):
            text = f"Urgent alerts fire: {', '.join(firing)}."
            raise Refused("gate", text, "Mend that first, or deploy with --no-gate.")
        return {"verdict": "passed", "why": "no urgent alert fires"}

    def hold(self, _: Args) -> None:
        """Stay staged after the deployer is gone: a person decides when to promote."""
        self.store.write_journal({**self._journal(), "phase": "held"})

    def flip(self, _: Args) -> None:
        journal = self._journal()
        if missing := BEFORE_FLIP - set(journal["done"]):
            raise Refused("not_proved", f"Not done yet: {', '.join(sorted(missing))}. Nothing is flipped.")
        self.store.point_live_at(journal["colour"])
        self.store.write_journal({**journal, "phase": "flipped"})

    def drain(self, args: Args) -> dict[str, Any]:
        old = self._journal()["from"]
        return {"left": None if old is None else traffic.drain(self.store, old, args.get("drain_s", 5))}

    def watch(self, args: Args) -> dict[str, Any]:
        """Look on while the new colour serves: through Caddy, past it, and at its containers."""
        journal = self._journal()
        services = set(self._manifest()["images"])

        def healthy() -> None:
            self.engine.await_health(self._name(journal["colour"]), services, 0, lambda _: None)

        urls = [*self.store.config.watch_urls, *self._probe_urls(journal["colour"], self._manifest())]
        return {
            "rounds": traffic.watch(urls, args.get("watch_s", 10), healthy if args.get("watch_s") else lambda: None)
        }

    def commit(self, _: Args) -> dict[str, Any]:
        """Record the release. From here on this is what the host returns to."""
        journal, old = self._journal(), self.store.current()
        if self.store.live() != journal["colour"]:
            raise Refused("not_flipped", "Requests still go to the old release; nothing is recorded.")
        lost = self._lost_volumes(journal)
        data = {key: journal[key] for key in ("rollout", "plan", "kind", "seq", "colour")}
        folder = self.store.release_folder(journal["seq"])
        data |= {"envelope": hash_of((folder / "envelope.json").read_bytes()), **self._facts()}
        if self.store.recorded()[-1:] == [] or self.store.recorded()[-1]["rollout"] != journal["rollout"]:
            self.store.record(self.actor, "commit", data)
        previous = old and {"seq": old["seq"], "colour": old["colour"]}
        if old is None or old["rollout"] != journal["rollout"]:
            self.store.write_current(data | {"previous": previous, "at": time.time()})
        self.store.end_journal()
        return {"lost_volumes": lost}

    def revert(self, args: Args) -> dict[str, Any]:
        """Back to the recorded release: flip, keep what the failed one said, remove its containers. Safe to repeat."""
        journal = self.store.journal()
        if journal is None:
            return {"reverted": False}
        self.store.point_live_at(journal["from"])
        words: dict[str, Any] = {}
        if journal.get("is_touched"):  # before that, the idle colour still holds the release before the last
            words = self.engine.last_words(self._name(journal["colour"]))
            traffic.drain(self.store, journal["colour"], args.get("drain_s", 5))
            self.engine.run(commands.down(self._name(journal["colour"])))
            self._colour_file(journal["colour"]).unlink(missing_ok=True)
        lost = self._lost_volumes(journal)
        self.store.record(
            self.actor, "revert", {"rollout": journal["rollout"], "seq": journal["seq"], "why": args["why"]}
        )
        self.store.end_journal()
        return {"reverted": True, "last_words": words, "lost_volumes": lost}

    def forward(self, _: Args) -> dict[str, Any]:
        """Finish a rollout that another host has committed already."""
        self.flip({})
        return self.commit({})

    def ready(self, args: Args) -> dict[str, Any]:
        """Whether the recorded release could take requests now: its containers, its probes, and Caddy before them."""
        current = self.store.current()
        if current is None or current["seq"] != args["seq"] or self.store.live() != current["colour"]:
            raise Refused("not_ready", f"Release {args['seq']} is not what this host serves.", "Plan anew.")
        manifest = self._manifest(current["seq"])
        self.engine.await_health(self._name(current["colour"]), set(manifest["images"]), 0, lambda _: None)
        for url in (*self._probe_urls(current["colour"], manifest), *self.store.config.watch_urls):
            traffic.probe(url)
        return {"colour": current["colour"]}

    def note_switch(self, args: Args) -> None:
        """Into the audit: requests from outside go to another droplet now."""
        keys = ("seq", "from", "to", "address", "plan", "snapshot")
        self.store.record(self.actor, "switch", {key: args[key] for key in keys})

    def note_prune(self, args: Args) -> None:
        """Into the audit, before it is done: releases leave the registry."""
        self.store.record(self.actor, "prune_registry", {key: args[key] for key in ("releases", "images")})

    def prune(self, args: Args) -> dict[str, Any]:
        """Remove images of releases but the running one and the last `keep` others. Volumes are not for us."""
        before = self.engine.volumes()
        seqs: list[int] = [entry["seq"] for entry in reversed(self.store.recorded())]
        current = self.store.current()
        newest = [*([int(current["seq"])] if current else []), *seqs]
        kept = list(dict.fromkeys(newest))[: 1 + int(args["keep"])]
        wanted = {image for seq in kept for image in self._manifest(seq)["images"].values()}
        removed: list[str] = []
        for image in sorted(set(self.engine.run(commands.list_images()).split())):
            is_ours = image.startswith(self.store.config.repositories) and "@sha256:" in image
            unwanted = is_ours and image not in wanted
            if unwanted and self.engine.start(commands.remove_image(image).argv, 60).returncode == 0:
                removed.append(image)
        self.store.record(self.actor, "prune", {"kept": kept, "removed": removed})
        return {"kept": kept, "removed": removed, "lost_volumes": sorted(set(before) - set(self.engine.volumes()))}

    # -- what the steps share ------------------------------------------------------------------------------------

    def _journal(self) -> dict[str, Any]:
        journal = self.store.journal()
        if journal is None:
            raise Refused("no_rollout", "No rollout has begun on this host.")
        return journal

    def _manifest(self, seq: int | None = None) -> dict[str, Any]:
        wanted = self._journal()["seq"] if seq is None else seq
        envelope = json.loads((self.store.release_folder(wanted) / "envelope.json").read_text())
        return json.loads(base64.b64decode(envelope["payload"]))

    def _execute(self, task: Mapping[str, Any], args: Args) -> tuple[int, str]:
        """Run a command of the release in a container of the new colour."""
        project = self._project(self._journal()["colour"], self._manifest()["seq"])
        return self.engine.execute(project, task["service"], task["command"], args.get("smoke_s", 120))

    def _facts(self) -> dict[str, Any]:
        manifest = self._manifest()
        return {"git_sha": manifest["git_sha"], "database_revision": manifest["database_revision"]}

    def _name(self, colour: str) -> str:
        return f"{self.store.config.application}-{colour}"

    def _colour_file(self, colour: str) -> Path:
        return self.store.path / f"{colour}.json"

    def _project(self, colour: str, seq: int) -> Project:
        folder = self.store.release_folder(seq)
        files = [folder / "compose.yaml"]
        if (folder / f"{colour}.json").exists():
            files.append(folder / f"{colour}.json")
        return Project(self._name(colour), tuple(files), folder, self.store.config.env_file)

    def _probe_urls(self, colour: str, manifest: Mapping[str, Any]) -> list[str]:
        return [
            f"http://{traffic.address(self.store.config, colour, index)}{endpoint['probe']}"
            for index, endpoint in enumerate(manifest["endpoints"])
        ]

    def _check_compose(self, manifest: Mapping[str, Any]) -> None:
        """A release may not declare volumes of its own: data belongs to the project that no rollout touches."""
        command = self._project(self._journal()["colour"], manifest["seq"]).config()
        parsed = json.loads(self.engine.run(command, extra={"COLOUR": self._journal()["colour"]}))
        if set(parsed["services"]) != set(manifest["images"]):
            raise Refused("tampered", "The compose file's services are not those of the manifest.")
        volumes: dict[str, dict[str, Any]] = parsed.get("volumes") or {}
        own = [name for name, volume in volumes.items() if not volume.get("external")]
        if own:
            text = f"The compose file declares volumes of its own: {', '.join(sorted(own))}."
            raise Refused("volumes", text, "Declare them in compose.data.yaml and use them as `external: true`.")

    def _keep(self, offered: Offered, manifest: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        folder = self.store.release_folder(manifest["seq"])
        for name, text in offered.config.items():
            write_text(folder / name, text)
        write_text(folder / "compose.yaml", offered.compose)
        write_json(folder / "config.json", offered.config)
        write_json(folder / "signatures.json", found)
        write_text(folder / "envelope.json", offered.envelope.decode())

    def _stored(self, seq: int) -> tuple[Offered, "_Remembering"]:
        folder = self.store.release_folder(seq)
        if not (folder / "envelope.json").exists():
            raise Refused(
                "not_recorded", f"Release {seq} is not kept on this host.", "See `dev-tools rollout history`."
            )
        config = read_json(folder / "config.json") or {}
        compose = (folder / "compose.yaml").read_text()
        offered = Offered((folder / "envelope.json").read_bytes(), compose, config)
        return offered, _Remembering(None, read_json(folder / "signatures.json") or {})

    def _lost_volumes(self, journal: Mapping[str, Any]) -> list[str]:
        lost = sorted(set(journal["volumes"]) - set(self.engine.volumes()))
        if lost:
            self.store.record(self.actor, "volumes_lost", {"volumes": lost, "rollout": journal["rollout"]})
        return lost


class _Remembering:
    """Signatures as the registry gave them, kept with the release: going back needs no registry."""

    def __init__(self, registry: Registry | None, found: Mapping[str, Any] | None = None) -> None:
        self.registry = registry
        self.found: dict[str, Any] = dict(found or {})

    def fetch_signatures(self, repository: str, digest: str) -> list[tuple[bytes, bytes]]:
        name = f"{repository}@{digest}"
        if self.registry is not None:
            pairs = self.registry.fetch_signatures(repository, digest)
            self.found[name] = [[base64.b64encode(part).decode() for part in pair] for pair in pairs]
        return [(base64.b64decode(payload), base64.b64decode(sig)) for payload, sig in self.found.get(name, [])]


def _login(args: Args) -> dict[str, tuple[str, str]]:
    login: dict[str, list[str]] = args.get("login") or {}
    return {host: (user, password) for host, (user, password) in login.items()}


def _version(text: str) -> tuple[int, ...]:
    parts = text.lstrip("v").split("-")[0].split("+")[0].split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


_STEPS: Mapping[str, Callable[[HostRollout, Args], dict[str, Any] | None]] = {
    name: getattr(HostRollout, name)
    for name in [
        "state",
        "begin",
        "preflight",
        "verify",
        "pull",
        "backup",
        "start",
        "health",
        "probe",
        "smoke",
        "traces",
        "gate",
        "hold",
        "flip",
        "drain",
        "watch",
        "commit",
        "revert",
        "forward",
        "ready",
        "note_switch",
        "note_prune",
        "prune",
    ]
}
