"""`dev-tools rollout`: a release onto the hosts, and back."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from devtools_platform.app.delivery import Delivery
from devtools_platform.app.releases import Options, Outcome, Plan, Severity, SwitchOptions, SwitchPlan
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, out, print_json, write_file
from devtools_platform.cli.release import ReleaseName, delivery
from devtools_platform.core.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Roll a release out, watch it, go back.")
ROLLED_BACK = 21
"""Exit code: the release did not make it, and every host is on the one before."""

HostOption = Annotated[str | None, typer.Option("--host", help="Only this host of the inventory.")]
Approved = Annotated[
    str | None, typer.Option("--plan", help="A plan's file or hash: do exactly this, or nothing.", metavar="FILE|HASH")
]
WatchS = Annotated[float, typer.Option("--watch", min=0, max=3600, help="Seconds to look on after the flip.")]
DrainS = Annotated[
    float, typer.Option("--drain", min=0, max=600, help="Seconds that requests of the old release may take to end.")
]
HealthS = Annotated[
    float, typer.Option("--health", min=1, max=3600, help="Seconds the new containers may take to become healthy.")
]
Hold = Annotated[bool, typer.Option("--hold", help="Stop when all is staged; `promote` goes on.")]
Gate = Annotated[bool, typer.Option(help="Refuse while urgent alerts fire or traces are not whole.")]
RefuseSeverity = Annotated[
    Severity | None, typer.Option(help="Refuse a release with a known vulnerability that bad or worse (SBOM, OSV).")
]
AcceptUnknown = Annotated[
    bool, typer.Option("--accept-unknown", help="Go on where vulnerabilities could not be found out.")
]


@app.command("plan")
def plan(
    name: ReleaseName = "latest",
    host: HostOption = None,
    watch: WatchS = 10,
    drain: DrainS = 5,
    health: HealthS = 120,
    hold: Hold = False,
    gate: Gate = True,
    refuse_severity: RefuseSeverity = None,
    accept_unknown: AcceptUnknown = False,
    file: Annotated[Path | None, typer.Option("--out", help="Write the plan here, for `start --plan`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what `start` would do. What is approved, by its hash, is what runs."""
    works = delivery(as_json=as_json)
    manifest, bundle = works.releases().fetch(name, works.public_key())
    options = Options(
        health_s=health,
        drain_s=drain,
        watch_s=watch,
        has_gate=gate,
        refuse_severity=refuse_severity,
        accepts_unknown=accept_unknown,
        is_held=hold,
    )
    made = asyncio.run(works.rollouts(host).plan(manifest, bundle, options))
    if file is not None:
        write_file(file, made.model_dump_json(indent=2))
    _show_plan(made, as_json=as_json)


@app.command("start")
def start(
    name: ReleaseName = "latest",
    host: HostOption = None,
    approved: Approved = None,
    watch: WatchS = 10,
    drain: DrainS = 5,
    health: HealthS = 120,
    hold: Hold = False,
    gate: Gate = True,
    refuse_severity: RefuseSeverity = None,
    accept_unknown: AcceptUnknown = False,
    as_json: AsJson = False,
) -> None:
    """Stage the release on all hosts, flip, watch, record. Any failure returns all hosts. Exit code 21 then."""
    works = delivery(as_json=as_json)
    options = Options(
        health_s=health,
        drain_s=drain,
        watch_s=watch,
        has_gate=gate,
        refuse_severity=refuse_severity,
        accepts_unknown=accept_unknown,
        is_held=hold,
    )
    hash_, seen = _read_approved(approved)
    if seen is not None:
        name, options = str(seen.seq), seen.options
    manifest, bundle = works.releases().fetch(name, works.public_key())
    _finish(asyncio.run(works.deployment(host).deploy(manifest, bundle, options, hash_)), as_json=as_json)


@app.command("rollback")
def rollback(
    to: Annotated[
        int | None, typer.Option("--to", help="A recorded release's number; the one before by default.")
    ] = None,
    host: HostOption = None,
    approved: Approved = None,
    watch: WatchS = 0,
    drain: DrainS = 5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and the hash for --plan.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go back to a release that ran: at once where it still runs, else by starting it again with its own files."""
    options = Options(watch_s=watch, drain_s=drain)
    works = delivery(as_json=as_json)
    if dry_run:
        _show_plan(asyncio.run(works.rollouts(host).plan_rollback(to, options)), as_json=as_json)
        return
    hash_, _ = _read_approved(approved)
    _finish(asyncio.run(works.rollouts(host).roll_back(to, options, hash_)), as_json=as_json)


@app.command("switch")
def switch(
    to: Annotated[str, typer.Argument(metavar="HOST", help="The host of the inventory that requests shall go to.")],
    snapshot: Annotated[bool, typer.Option(help="Snapshot the droplet that serves now, before.")] = True,
    settle: Annotated[float, typer.Option(help="Seconds the address may take to answer from there.")] = 60,
    watch: Annotated[float, typer.Option("--watch", help="Seconds it must then answer without a break.")] = 30,
    approved: Annotated[
        str | None, typer.Option("--plan", help="A plan's hash: do exactly this, or nothing.", metavar="HASH")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and where requests go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Blue/green between droplets: move the reserved IP or load balancer to another one, and back if it fails."""
    works, options = _works(as_json=as_json), SwitchOptions(takes_snapshot=snapshot, settle_s=settle, watch_s=watch)
    if dry_run:
        _show_switch(asyncio.run(works.plan_switch(to, options)), as_json=as_json)
        return
    outcome = asyncio.run(works.switch(to, options, approved))
    if as_json:
        print_json(asdict(outcome))
    elif outcome.status == "switched":
        kept = f", snapshot {outcome.snapshot}" if outcome.snapshot else ""
        out.print(f"switched: requests go to {outcome.serving}, after {outcome.seconds:.1f} s{kept}", markup=False)
    else:
        out.print(f"returned: {outcome.failed_step} failed: {outcome.why}", markup=False)
        out.print(f"Requests go to {outcome.serving or 'nobody knows where'}.", markup=False)
    if outcome.status == "returned":
        raise typer.Exit(ROLLED_BACK)


@app.command("promote")
def promote(host: HostOption = None, approved: Approved = None, as_json: AsJson = False) -> None:
    """Go on with a rollout that was started with --hold."""
    hash_, _ = _read_approved(approved)
    _finish(asyncio.run(_works(as_json=as_json).rollouts(host).promote(hash_)), as_json=as_json)


@app.command("abort")
def abort(host: HostOption = None, as_json: AsJson = False) -> None:
    """Undo a rollout that is held. Requests never went to it."""
    outcome = asyncio.run(_works(as_json=as_json).rollouts(host).abort())
    if as_json:
        print_json(asdict(outcome))
    else:
        out.print(f"undone: release {outcome.seq}")


@app.command("status")
def status(
    host: HostOption = None,
    recover: Annotated[bool, typer.Option(help="Finish or undo a rollout whose deployer is gone.")] = True,
    as_json: AsJson = False,
) -> None:
    """Which release each host is on. An interrupted rollout is finished or undone first."""
    found = asyncio.run(_works(as_json=as_json).rollouts(host).status(recover=recover))
    if as_json:
        states = {name: state.model_dump(mode="json") for name, state in found.states.items()}
        print_json({"recovered": found.recovered, "hosts": states, "unreachable": found.unreachable})
    else:
        if found.recovered not in {"nothing", "busy"}:
            err.print(f"  an interrupted rollout: {found.recovered}")
        for name, state in found.states.items():
            now = f"release {state.current.seq} {state.current.git_sha[:12]}" if state.current else "no release"
            idle = f"; release {state.idle.seq} still runs" if state.idle and state.idle.is_up else ""
            doing = f"; {state.journal['phase']}: release {state.journal['seq']}" if state.journal else ""
            out.print(f"{name:<16} {now} on {state.live or 'nothing'}{idle}{doing}", markup=False)
        for name, why in found.unreachable.items():
            out.print(f"{name:<16} UNREACHABLE {why}", markup=False)
    if found.unreachable:
        raise typer.Exit(10)


@app.command("history")
def history(host: HostOption = None, as_json: AsJson = False) -> None:
    """What was done on each host, from its own audit; exit code 1 when a chain does not hold."""
    from devtools_platform.app.releases import check_chain

    entries = asyncio.run(_works(as_json=as_json).rollouts(host).history())
    broken = {name: check_chain(chain) for name, chain in entries.items()}
    if as_json:
        print_json({name: {"broken_at": broken[name], "entries": chain} for name, chain in entries.items()})
    else:
        for name, chain in entries.items():
            for entry in chain:
                data = entry["data"]
                what = f"release {data['seq']}" if "seq" in data else ""
                out.print(
                    f"{name:<16} {entry['seq']:>5} {_at(entry['at'])} {entry['actor']:<20} {entry['action']:<8} "
                    f"{what} {data.get('why', '')}".rstrip(),
                    markup=False,
                )
            if broken[name] is not None:
                out.print(f"{name}: BROKEN at entry {broken[name]}")
    if any(place is not None for place in broken.values()):
        raise typer.Exit(1)


@app.command("prune")
def prune(
    keep: Annotated[int, typer.Option(min=1, max=100, help="Releases to keep beside the current one.")] = 3,
    host: HostOption = None,
    as_json: AsJson = False,
) -> None:
    """Remove images of old releases. Volumes are never touched: there is no command for that."""
    done = asyncio.run(_works(as_json=as_json).rollouts(host).prune(keep))
    if as_json:
        print_json(done)
        return
    for name, result in done.items():
        out.print(f"{name:<16} kept releases {result['kept']}, removed {len(result['removed'])} images")


def _works(*, as_json: bool) -> Delivery:
    return delivery(as_json=as_json)


def _finish(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(outcome) | {"gates": [gate.model_dump() for gate in outcome.gates]})
    elif outcome.status == "reverted":
        _show_failure(outcome)
    else:
        out.print(f"{outcome.status}: release {outcome.seq} in {outcome.seconds:.1f} s")
        for gate in outcome.gates:
            out.print(f"  {gate.gate} {gate.verdict}: {gate.why}", markup=False)
    if outcome.lost_volumes:
        err.print(f"  ALARM: volumes are missing: {', '.join(outcome.lost_volumes)}", style="bold red")
    if outcome.unreachable:
        err.print(f"  not told: {', '.join(outcome.unreachable)}; run `dev-tools rollout status`")
    if outcome.status == "reverted":
        raise typer.Exit(ROLLED_BACK)


def _show_failure(outcome: Outcome) -> None:
    for host, services in (outcome.last_words or {}).items():
        for service, said in services.items():
            err.print(f"--- {service} on {host}: {said['state']}, exit code {said['exit_code']}", markup=False)
            for check in said["health"]:
                err.print(f"    health: {check['exit_code']} {check['output']}", markup=False)
            err.print(said["log"].rstrip(), markup=False)
    out.print(f"reverted: release {outcome.seq} failed at {outcome.failed_step}: {outcome.why}", markup=False)
    out.print(f"Every host is on the release it was on. It took {outcome.seconds:.1f} s.")


def _show_switch(plan: SwitchPlan, *, as_json: bool) -> None:
    if as_json:
        print_json({**plan.model_dump(mode="json"), "hash": plan.hash})
        return
    out.print(f"{plan.address}: from {plan.from_host or 'nothing'} to {plan.to_host}", markup=False)
    out.print(f"  which serves release {plan.seq}, commit {plan.git_sha[:12]}")
    for number, step in enumerate(plan.steps, 1):
        out.print(f"  {number:>3}  {step}")
    out.print(f"plan {plan.hash}")


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json({**plan.model_dump(mode="json"), "hash": plan.hash})
        return
    out.print(f"{plan.kind} release {plan.seq} of {plan.application}, commit {plan.git_sha[:12]}")
    for target in plan.targets:
        out.print(f"  {target.host:<16} from release {target.from_seq or 'none'} to {target.colour}")
    for number, step in enumerate(plan.steps, 1):
        out.print(f"  {number:>3}  {step.phase:<7} {step.action:<10} {step.host}")
    out.print(f"plan {plan.hash}")


def _read_approved(given: str | None) -> tuple[str | None, Plan | None]:
    """The hash a person approved, and the plan where a file was given."""
    if given is None:
        return None, None
    file = Path(given)
    if not file.is_file():
        return given, None
    try:
        plan = Plan.model_validate_json(file.read_text())
    except ValidationError as error:
        raise BadInput(
            f"{given} is no plan: {error.errors()[0]['msg']}.", hint="Make one: `rollout plan --out`."
        ) from None
    return plan.hash, plan


def _at(seconds: Any) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
