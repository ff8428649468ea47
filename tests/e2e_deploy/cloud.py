"""The fake DigitalOcean with two droplets and a reserved IP at the first: prints its address and their numbers."""

import asyncio
import json
import sys

from pydantic import SecretStr

from devtools_platform.kit.digitalocean import DigitalOcean
from fakes.digitalocean_server import FakeDigitalOcean

IP = "203.0.113.7"


async def make_droplets(fake: FakeDigitalOcean) -> list[int]:
    async with DigitalOcean(SecretStr(fake.token), fake.url) as client:
        made = [
            (await client.droplets.create(name, region="nyc3", size="s-1vcpu-1gb", image="debian-12-x64")).id
            for name in ("web-1", "web-2")
        ]
        await client.reserved_ips.assign(IP, made[0])
        return made


with FakeDigitalOcean(finishes_after=1) as fake:
    droplets = asyncio.run(make_droplets(fake))
    sys.stdout.write(json.dumps({"url": fake.url, "token": fake.token, "droplets": droplets, "ip": IP}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    sys.stdout.write(json.dumps({"serving": fake.resources.reserved[IP], "snapshots": len(fake.resources.snapshots)}))
