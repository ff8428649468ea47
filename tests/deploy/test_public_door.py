"""What Caddy passes on to the services of `deploy/compose.yaml`, read off its file."""

import re
from pathlib import Path

CADDYFILE = Path(__file__).parents[2] / "deploy" / "Caddyfile.compose"


def test_caddy_passes_on_what_people_use_and_nothing_that_programs_of_the_stack_ask() -> None:
    text = CADDYFILE.read_text()
    named = dict(re.findall(r"@(\w+) path(?:_regexp)? ([^\n]+)", text))
    # Caddy takes the first `handle` that fits, and the one without a matcher last.
    handled = re.findall(r"handle (?:@(\w+) )?\{\s*(reverse_proxy|respond) (\S+)", text)

    assert {name: named[name].split() for name in named} == {
        "gateway": ["/mcp", "/mcp/*", "/.well-known/oauth-protected-resource*"],
        "agents": ["^/agents/[^/]+/v1/"],
        "inside": ["/metrics", "/login-links"],
    }
    assert handled == [
        ("gateway", "reverse_proxy", "gateway:8000"),
        ("agents", "reverse_proxy", "agents:8001"),
        ("inside", "respond", "404"),
        ("", "reverse_proxy", "console:8080"),
    ]
    assert text.count("reverse_proxy") == 3
    assert re.search(r"admin off", text)
