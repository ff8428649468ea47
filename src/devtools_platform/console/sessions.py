"""Who may look: one-time login links, signed session cookies and the forms' CSRF tokens.

A link is a random code held in memory, so it dies with its first use, its age or the process. A session is a
signed cookie, so it survives a restart of the stack as long as the stack keeps its secret.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

import jwt

from devtools_platform.console.access import Person, read_person
from devtools_platform.core.errors import BadInput

LINK_LIFETIME_S = 15 * 60
SESSION_LIFETIME_S = 12 * 3600
MAX_LINKS = 1000
AUDIENCE = "dev-tools-console"
OWNER = Person("owner", "admin")
"""Whoever holds the stack's own token and says no other name."""


@dataclass(frozen=True)
class Session:
    """One signed-in browser."""

    id: str
    csrf: str
    """What every form of this session must carry."""
    person: Person


class LoginLinks:
    """Codes that open one session each."""

    def __init__(self, lifetime_s: float = LINK_LIFETIME_S) -> None:
        self._lifetime_s = lifetime_s
        self._ends: dict[str, tuple[float, Person]] = {}

    def issue(self, person: Person = OWNER) -> str:
        now = time.monotonic()
        self._ends = {code: entry for code, entry in self._ends.items() if entry[0] > now}
        while len(self._ends) >= MAX_LINKS:
            self._ends.pop(next(iter(self._ends)))
        code = secrets.token_urlsafe(32)
        self._ends[code] = (now + self._lifetime_s, person)
        return code

    def redeem(self, code: str) -> Person | None:
        """Whose session `code` opens; None when it opens none. It never does so twice."""
        end, person = self._ends.pop(code, (0.0, OWNER))
        return person if end > time.monotonic() else None


class Sessions:
    """Makes and reads session cookies signed with the stack's secret."""

    def __init__(self, secret: str, lifetime_s: float = SESSION_LIFETIME_S) -> None:
        self._cookie_key = _derive(secret, "session cookie")
        self._csrf_key = _derive(secret, "form token")
        self.sign_in_key = _derive(secret, "sign-in")
        """For what a browser keeps between its two visits at an identity provider."""
        self.lifetime_s = int(lifetime_s)
        # Browsers share cookies between ports of a host: two stacks on one machine need two names.
        self.cookie_name = "dev_tools_session_" + _derive(secret, "cookie name").hex()[:8]

    def start(self, person: Person = OWNER) -> str:
        """A new session's cookie value."""
        now = int(time.time())
        claims = {"sid": secrets.token_hex(16), "aud": AUDIENCE, "iat": now, "exp": now + self.lifetime_s}
        claims |= {"sub": person.name, "role": person.role}
        if person.token_id:
            claims["tok"] = person.token_id
        return jwt.encode(claims, self._cookie_key, algorithm="HS256")

    def read(self, cookie: str | None) -> Session | None:
        """The session a cookie stands for; None when it is missing, forged or expired."""
        if cookie is None:
            return None
        try:
            claims = jwt.decode(
                cookie,
                self._cookie_key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["sid", "exp", "sub", "role"]},
            )
            known = read_person(claims["sub"], claims["role"])
        except (jwt.InvalidTokenError, BadInput):
            return None
        id_, token = str(claims["sid"]), claims.get("tok")
        person = Person(known.name, known.role, None if token is None else str(token))
        return Session(id_, hmac.digest(self._csrf_key, id_.encode(), "sha256").hex(), person)


def has_csrf(session: Session, given: str) -> bool:
    """Whether a form carries its session's token. Compares in constant time."""
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def _derive(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"dev-tools console: {purpose}".encode(), hashlib.sha256)
