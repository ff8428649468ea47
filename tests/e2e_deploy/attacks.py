"""Releases that must be refused, offered to a droplet past every check of our own; prints what it answered."""

import asyncio
import base64
import json
import sys
import time
from typing import Any

from devtools_platform.app.delivery import Delivery
from devtools_platform.config import load_settings
from devtools_platform.core.errors import DevToolsError
from devtools_platform.deploy import signing
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.types import Bundle

works = Delivery(load_settings(), lambda *_: None)
releases = works.releases()
signer = works.signer()
manifest, good = releases.fetch("latest", works.public_key())
_, old = releases.fetch("1", works.public_key())
web = manifest.images["web"].split("@")[0]


def signed(change: dict[str, Any], by: signing.Signer = signer) -> Bundle:
    body = {**manifest.model_dump(mode="json"), "seq": 900, **change}
    envelope = signing.make_envelope(signing.RELEASE_TYPE, json.dumps(body).encode(), by)
    return good.model_copy(update={"envelope": json.dumps(envelope)})


def bent(**change: Any) -> Bundle:
    """The good envelope with its payload changed and its signature kept."""
    envelope = json.loads(signed({}).envelope)
    body = json.loads(base64.b64decode(envelope["payload"])) | change
    return good.model_copy(
        update={"envelope": json.dumps(envelope | {"payload": base64.b64encode(json.dumps(body).encode()).decode()})}
    )


def unsigned() -> Bundle:
    return good.model_copy(update={"envelope": json.dumps(json.loads(signed({}).envelope) | {"signatures": []})})


def image(name: str, repository: str | None, sha: str) -> Bundle:
    """An image in the registry whose signature speaks for another repository or commit; None: it has no signature."""
    raw = releases.registry.fetch_manifest(web, manifest.images["web"].split("@")[1])
    assert raw
    digest = releases.registry.push_manifest(
        web, f"attack-{name}", {**json.loads(raw), "annotations": {"attack": name}}
    )
    if repository is not None:
        Artifacts(releases.registry).sign_image(web, digest, sha, signer)
        payload = signing.simple_signing(repository, digest, sha)
        artifacts = Artifacts(releases.registry)
        layer = artifacts._layer(
            web,
            payload,
            "application/vnd.dev.cosign.simplesigning.v1+json",
            {"dev.cosignproject.cosign/signature": base64.b64encode(signer.sign(payload)).decode()},
        )
        releases.registry.push_manifest(web, digest.replace(":", "-") + ".sig", artifacts._manifest(web, [layer]))
    return signed({"images": {**manifest.images, "web": f"{web}@{digest}"}})


ATTACKS = {
    "unsigned release": unsigned(),
    "signed by a stranger": signed({}, signing.make_key()),
    "payload changed": bent(git_sha="f" * 40),
    "compose file changed": signed({}).model_copy(update={"compose": good.compose + "\n# more\n"}),
    "configuration changed": signed({}).model_copy(update={"config": {"Caddyfile": "bad"}}),
    "replayed old release": old,
    "release of another application": signed({"application": "other"}),
    "image by tag": signed({"images": {**manifest.images, "web": f"{web}:latest"}}),
    "image from elsewhere": signed({"images": {**manifest.images, "web": "evil.example/x@sha256:" + "0" * 64}}),
    "unsigned image": image("unsigned", None, ""),
    "signature of another repository": image("repo", web.replace("web", "other"), manifest.git_sha),
    "signature of another commit": image("sha", web, "e" * 40),
}


async def offer(bundle: Bundle) -> str:
    rollouts = works.rollouts()
    session = await rollouts.connect(rollouts.hosts[0], lambda *_: None)
    try:
        state = await session.call("lock", {"actor": "mallory"})
        colour = "green" if state["live"] == "blue" else "blue"
        seq = json.loads(base64.b64decode(json.loads(bundle.envelope)["payload"]))["seq"]
        await session.call("begin", {"rollout": "attack", "plan": "0", "kind": "deploy", "seq": seq, "colour": colour})
        try:
            for action in ("verify", "pull", "start", "health", "probe", "flip"):
                await session.call(
                    action,
                    {
                        "envelope": base64.b64encode(bundle.envelope.encode()).decode(),
                        "compose": bundle.compose,
                        "config": bundle.config,
                        "now": time.time(),
                    },
                )
            return "ACCEPTED"
        except DevToolsError as error:
            return f"{action}: {error}"
        finally:
            await session.call("revert", {"why": "attack"})
    finally:
        await session.aclose()


async def skip_verification() -> str:
    """A deployer that leaves out the checks and asks for the flip."""
    rollouts = works.rollouts()
    session = await rollouts.connect(rollouts.hosts[0], lambda *_: None)
    try:
        state = await session.call("lock", {"actor": "mallory"})
        colour = "green" if state["live"] == "blue" else "blue"
        await session.call("begin", {"rollout": "attack", "plan": "0", "kind": "deploy", "seq": 901, "colour": colour})
        try:
            await session.call("flip", {})
            return "ACCEPTED"
        except DevToolsError as error:
            return f"flip: {error}"
        finally:
            await session.call("revert", {"why": "attack"})
    finally:
        await session.aclose()


answers = {name: asyncio.run(offer(bundle)) for name, bundle in ATTACKS.items()}
answers["flip without verification"] = asyncio.run(skip_verification())
json.dump(answers, sys.stdout)
