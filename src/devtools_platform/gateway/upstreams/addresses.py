"""Where the gateway may connect to. Names are resolved once, checked, and the checked address is what is dialled.

Otherwise a name that resolves to 169.254.169.254 or 10.0.0.1 would make the gateway a way into the network.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from devtools_platform.core.errors import BadInput, Forbidden


@dataclass(frozen=True)
class Target:
    """An http(s) URL taken apart."""

    host: str
    port: int
    is_tls: bool
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


def parse_target(url: str) -> Target:
    """Raises `BadInput` for anything but a plain http(s) URL; credentials in it are refused, they end up in logs."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None or port == -1:
        raise BadInput(f"{url!r} is not a plain http or https URL.", hint="Write it as https://host[:port]/path.")
    is_tls = parts.scheme == "https"
    path = parts.path or "/"
    if parts.query:
        path += f"?{parts.query}"
    if any(ord(c) <= 32 or ord(c) >= 127 for c in path + parts.hostname):  # noqa: PLR2004 - printable ASCII
        raise BadInput(f"{url!r} holds characters a URL must escape.")
    return Target(parts.hostname, port or (443 if is_tls else 80), is_tls, path)


async def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """The addresses to dial. Raises `Forbidden` when any of them is private and that was not allowed."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and (private := [address for address in addresses if not is_public(address)]):
        raise Forbidden(
            f"{target.host!r} is at {private[0]}, which is no public address.",
            hint="If that is meant, set `allow_private: true` for this server in the catalogue.",
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet; also looks inside IPv4 addresses written as IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64(ip)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None
