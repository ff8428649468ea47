"""`dev-tools release`: what is built, signed and kept, before it goes anywhere."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform.app.delivery import Delivery, write_key_pair
from devtools_platform.cli.connection import AsJson
from devtools_platform.cli.output import err, no_progress, out, print_json, progress
from devtools_platform.config import load_settings

app = typer.Typer(no_args_is_help=True, help="Signed releases: build, list, show, verify.")
COMPOSE = Path("deploy/compose.app.yaml")
ReleaseName = Annotated[str, typer.Argument(help="A release: its number, its git sha, or `latest`.")]


def delivery(*, as_json: bool, **overrides: Any) -> Delivery:
    """What these commands work with."""
    return Delivery(load_settings(overrides), no_progress if as_json else progress)


@app.command("build")
def build(
    compose: Annotated[Path, typer.Option(help="The compose file of the stateless services.")] = COMPOSE,
    lint: Annotated[bool, typer.Option(help="Check the Dockerfiles with hadolint.")] = True,
    sbom: Annotated[bool, typer.Option(help="Attach a CycloneDX SBOM to every image, made by syft.")] = True,
    skip_cleanup: Annotated[bool, typer.Option("--skip-cleanup", help="Keep the layers of a failed build.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build every service, push it, sign it, and record the release of the commit that is checked out."""
    works = delivery(as_json=as_json)
    manifest = works.build(compose, has_lint=lint, has_sbom=sbom, is_cleaned=not skip_cleanup)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    out.print(f"release {manifest.seq}  {manifest.git_sha}", markup=False)
    for service, image in sorted(manifest.images.items()):
        out.print(f"  {service:<12} {image}", markup=False)
    err.print(f"  next: dev-tools rollout plan {manifest.seq}")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The releases in the registry, oldest first."""
    listed = delivery(as_json=as_json).releases().list_releases()
    if as_json:
        print_json([vars(entry) for entry in listed])
        return
    for entry in listed:
        out.print(f"{entry.seq:>6}  {entry.tag}")
    if not listed:
        err.print("There are no releases yet. Make one with `dev-tools release build`.")


@app.command("show")
def show(name: ReleaseName = "latest", as_json: AsJson = False) -> None:
    """One release: its commit, its images by digest, its endpoints."""
    works = delivery(as_json=as_json)
    manifest, bundle = works.releases().fetch(name, works.public_key())
    if as_json:
        print_json({**manifest.model_dump(mode="json"), "release": bundle.sha256})
        return
    out.print(
        f"release   {manifest.seq}\ngit       {manifest.git_sha}\nbuilt     {manifest.created_at:%Y-%m-%d %H:%M} UTC"
    )
    out.print(f"database  {manifest.database_revision or 'not said'}\nsigned as {bundle.sha256}")
    for service, image in sorted(manifest.images.items()):
        out.print(f"  {service:<12} {image}", markup=False)


@app.command("verify")
def verify(name: ReleaseName = "latest", as_json: AsJson = False) -> None:
    """Check the signatures of a release and of its images. Exit code 5 when one does not hold."""
    works = delivery(as_json=as_json)
    checks = works.releases().verify(name, works.public_key())
    if as_json:
        print_json(checks)
        return
    for check in checks:
        out.print(f"ok  {check['check']:<10} {check['subject']}", markup=False)


@app.command("prune")
def prune(
    keep: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Newest releases to keep; DEV_TOOLS_KEEP_RELEASES by default.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(min=0, help="Keep what is younger, in days; DEV_TOOLS_KEEP_RELEASES_DAYS by default."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go and why the rest stays.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old releases from the registry, with images and signatures: never what a host runs or can go back to."""
    works = delivery(as_json=as_json)
    settings = works.settings
    done = asyncio.run(
        works.prune(
            works.rollouts(),
            settings.keep_releases if keep is None else keep,
            settings.keep_releases_days if days is None else days,
            is_done=not dry_run,
        )
    )
    if as_json:
        print_json(asdict(done))
        return
    for entry in done.kept:
        out.print(f"{entry.seq:>6}  kept     {entry.why}", markup=False)
    for gone in done.removed:
        word = "removed" if done.is_done else "would go"
        what = f"{gone.git_sha[:12]} of {gone.created_at:%Y-%m-%d}, {len(gone.images)} images"
        out.print(f"{gone.seq:>6}  {word:<8} {what}, {len(gone.manifests)} manifests", markup=False)
    err.print(f"  {done.room}" if done.room else "  Nothing was removed.", markup=False)


@app.command("keygen")
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; the public one goes beside it.")],
    as_json: AsJson = False,
) -> None:
    """Make a signing key, in cosign's format, locked with DEV_TOOLS_RELEASE_KEY_PASSWORD."""
    password = load_settings().release_key_password
    write_key_pair(file, password.get_secret_value() if password else "")
    public = file.with_suffix(".pub")
    if as_json:
        print_json({"private": str(file), "public": str(public)})
    else:
        out.print(f"private {file}\npublic  {public}\nGive the public one to the droplets: `dev-tools host bootstrap`.")
