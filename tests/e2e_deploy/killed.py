"""A deployer that dies by SIGKILL right after the N-th step of its plan: `killed.py RELEASE N`."""

import asyncio
import os
import signal
import sys

from devtools_platform.app.delivery import Delivery
from devtools_platform.config import load_settings
from devtools_platform.deploy.types import Options, Step

release, count = sys.argv[1], int(sys.argv[2])
done: list[str] = []


def after_step(step: Step) -> None:
    done.append(step.id)
    if len(done) == count:
        sys.stdout.write(step.id)
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


works = Delivery(load_settings(), lambda *_: None)
manifest, bundle = works.releases().fetch(release, works.public_key())
rollouts = works.rollouts()
rollouts.after_step = after_step
outcome = asyncio.run(rollouts.deploy(manifest, bundle, Options(watch_s=0, drain_s=1, health_s=30)))
sys.stdout.write(f"ended: {outcome.status}")
