"""Old releases leave the registry: which may, decided from what is signed and what every host says, and their removal.

A release goes only where everything says that nobody needs it. What cannot be read, or is named by somebody else's
tag, stays; a host that does not answer ends it before anything is removed. Images that no release names stay, too:
nothing here can say whose they are.
"""

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from devtools_platform.core.errors import BadInput, Forbidden, NotFound, Unavailable
from devtools_platform.deploy.artifacts import Artifacts, NotARelease
from devtools_platform.deploy.interfaces import Remover
from devtools_platform.deploy.releases import Releases, read_manifest
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.types import Bundle, HostState, ReleaseManifest

COSIGN_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.(sig|att))?")
Image = tuple[str, str]
"""Repository and digest."""


@dataclass(frozen=True)
class Found:
    """A release as the registry has it."""

    seq: int
    digest: str
    tags: tuple[str, ...]
    """Every tag that names it."""
    manifest: ReleaseManifest | None
    """None where its signature does not hold, or it is no release."""
    images: frozenset[Image]
    """What it names; of one whose signature does not hold, this only keeps images, it never removes one."""


@dataclass(frozen=True)
class Kept:
    seq: int
    why: str


@dataclass(frozen=True)
class Removal:
    """A release that goes, with what goes with it, in this order: signatures and attestations before their image."""

    seq: int
    git_sha: str
    created_at: datetime
    images: tuple[str, ...]
    """Images that go with it, by digest. One that a kept release or a tag still names is not among them."""
    manifests: tuple[Image, ...]
    """Everything that is deleted, the release itself last: until then the next run finds it again."""


@dataclass(frozen=True)
class Pruning:
    """What goes and what stays, and why. `room`: how the registry frees the room; empty while nothing was removed."""

    kept: tuple[Kept, ...]
    removed: tuple[Removal, ...]
    is_done: bool = False
    room: str = ""


def decide(
    found: Sequence[Found], states: Mapping[str, HostState], *, keep: int, keep_for: timedelta, now: datetime
) -> dict[int, str]:
    """Why each release stays, by its number; one that is not in it may go. Pure."""
    newest = {one.seq for one in sorted(found, key=lambda one: one.seq)[-keep:]}
    hosted = _hosted(states, keep)
    reasons: dict[int, str] = {}
    for one in found:
        if one.seq in newest:
            reasons[one.seq] = f"among the newest {keep}"
        elif one.seq in hosted:
            reasons[one.seq] = hosted[one.seq]
        elif one.manifest is None:
            reasons[one.seq] = "cannot be verified with this key"
        elif foreign := sorted(set(one.tags) - {f"seq-{one.seq}", one.manifest.git_sha}):
            reasons[one.seq] = f"the tag {foreign[0]!r} names it"
        elif now - one.manifest.created_at < keep_for:
            reasons[one.seq] = f"younger than {keep_for.days} days"
    return reasons


def _hosted(states: Mapping[str, HostState], keep: int) -> dict[int, str]:
    """What hosts run, or go back to: as many recorded releases beside the current one as `rollout prune` keeps."""
    reasons: dict[int, str] = {}
    for host, state in sorted(states.items()):
        current = state.current.seq if state.current else None
        ran = dict.fromkeys(entry.seq for entry in reversed(state.recorded) if entry.seq != current)
        for seq in list(ran)[:keep]:
            reasons[seq] = f"{host!r} can go back to it"
        if state.idle is not None:
            reasons[state.idle.seq] = f"in the idle colour of {host!r}"
        if state.journal is not None:
            reasons[int(state.journal["seq"])] = f"a rollout of it on {host!r} has not ended"
        if current is not None:
            reasons[current] = f"{host!r} serves it"
    return reasons


@dataclass(frozen=True)
class Retention:
    """Old releases of one application. `keep` and `keep_for` both hold: a release goes when neither keeps it."""

    releases: Releases
    public_pem: bytes
    rollouts: Rollouts
    remover: Remover
    keep: int
    keep_for: timedelta

    async def plan(self, now: datetime) -> Pruning:
        """What `prune` would do now. Changes nothing. Raises `Unavailable` where host or registry does not answer."""
        situation = await self.rollouts.status(recover=False)
        if situation.unreachable:
            raise Unavailable(
                f"Nothing can be said while a host is away: {' '.join(situation.unreachable.values())}",
                hint="Bring it back, or take it out of the inventory when it is gone for good.",
            )
        return await asyncio.to_thread(self._look, situation.states, now)

    async def prune(self, now: datetime) -> Pruning:
        """Remove old releases, while every host is locked: what they say stays true, and is in their audit first.

        Raises `Unavailable` and `Conflict` before anything is removed where a host is away or busy, and `Conflict`
        where the registry does not delete.
        """
        async with self.rollouts.locked(recover=False) as (sessions, states):
            plan = await asyncio.to_thread(self._look, states, now)
            if not plan.removed:
                return Pruning(plan.kept, (), is_done=True)
            facts = {"releases": [one.seq for one in plan.removed], "images": sum(len(r.images) for r in plan.removed)}
            for session in sessions.values():
                await session.call("note_prune", facts)
            for removal in plan.removed:
                self.releases.progress("prune", f"release {removal.seq}: {len(removal.manifests)} manifests")
                for repository, digest in removal.manifests:
                    await self.remover.remove(repository, digest)
        return Pruning(plan.kept, plan.removed, is_done=True, room=await self.remover.finish())

    # -- looking -------------------------------------------------------------------------------------------------

    def _look(self, states: Mapping[str, HostState], now: datetime) -> Pruning:
        if others := {state.application for state in states.values()} - {self.releases.application}:
            raise BadInput(
                f"The inventory has hosts of {min(others)!r}, not only of {self.releases.application!r}.",
                hint="Look at the inventory, and at DEV_TOOLS_RELEASE_APPLICATION.",
            )
        found = self._find()
        reasons = decide(found, states, keep=self.keep, keep_for=self.keep_for, now=now)
        going = [one for one in found if one.seq not in reasons]
        staying = [one for one in found if one.seq in reasons]
        needed = self._needed(going, staying)
        removed = [self._removal(one, needed) for one in going]
        return Pruning(tuple(Kept(seq, why) for seq, why in sorted(reasons.items())), tuple(removed))

    def _find(self) -> list[Found]:
        repository, registry = self.releases.repository, self.releases.registry
        named: dict[str, list[str]] = {}
        for tag in registry.list_tags(repository):
            if (digest := registry.digest_of(repository, tag)) is not None:
                named.setdefault(digest, []).append(tag)
        digests = {tag: digest for digest, tags in named.items() for tag in tags}
        return [
            self._read(entry.seq, entry.tag, digests[entry.tag], tuple(sorted(named[digests[entry.tag]])))
            for entry in self.releases.list_releases()
            if entry.tag in digests
        ]

    def _read(self, seq: int, tag: str, digest: str, tags: tuple[str, ...]) -> Found:
        try:
            bundle = Artifacts(self.releases.registry).fetch_release(self.releases.repository, tag)
        except (NotARelease, NotFound):  # nobody can roll it out, so no image is needed for it
            return Found(seq, digest, tags, None, frozenset())
        try:
            manifest = read_manifest(bundle, self.public_pem)
        except Forbidden:
            return Found(seq, digest, tags, None, _unproved_images(bundle))
        is_its_own = manifest.seq == seq and manifest.application == self.releases.application
        images = frozenset(_split(image) for image in manifest.images.values())
        return Found(seq, digest, tags, manifest if is_its_own else None, images)

    def _needed(self, going: Sequence[Found], staying: Sequence[Found]) -> set[Image]:
        """What must stay in the repositories that something leaves: what kept releases and other tags name."""
        needed = {image for one in staying for image in one.images}
        shas = {one.manifest.git_sha for one in going if one.manifest}
        shas -= {one.manifest.git_sha for one in staying if one.manifest}
        for repository in sorted({repository for one in going for repository, _ in one.images}):
            for tag in self.releases.registry.list_tags(repository):
                if COSIGN_TAG.fullmatch(tag) or tag in shas:
                    continue
                digest = self.releases.registry.digest_of(repository, tag)
                needed |= {(repository, digest)} if digest else set()
        artifacts = Artifacts(self.releases.registry)
        return needed | {(r, child) for r, digest in needed for child in artifacts.children(r, digest)}

    def _removal(self, one: Found, needed: set[Image]) -> Removal:
        if one.manifest is None:
            raise AssertionError(one)
        own = f"{self.releases.prefix}/{self.releases.application}-"
        images = sorted(image for image in one.images - needed if image[0].startswith(own))
        artifacts = Artifacts(self.releases.registry)
        manifests: list[Image] = []
        for repository, digest in images:
            children = artifacts.children(repository, digest)
            beside = [a for of in (digest, *children) for a in artifacts.beside(repository, of)]
            manifests += [(repository, found) for found in (*beside, digest, *children)]
        whole = [image for image in dict.fromkeys(manifests) if image not in needed]
        names = tuple(f"{repository}@{digest}" for repository, digest in images)
        release = (self.releases.repository, one.digest)
        return Removal(one.seq, one.manifest.git_sha, one.manifest.created_at, names, (*whole, release))


def _split(image: str) -> Image:
    repository, _, digest = image.partition("@")
    return repository, digest


def _unproved_images(bundle: Bundle) -> frozenset[Image]:
    """What a release says it consists of, when nobody can prove that it does."""
    try:
        said: Mapping[str, Any] = json.loads(base64.b64decode(json.loads(bundle.envelope)["payload"]))
        return frozenset(_split(str(image)) for image in said["images"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
