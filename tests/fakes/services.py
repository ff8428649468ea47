"""The fakes of GitHub and Linear as a program, for `dev-tools dev fakes`: prints the settings, serves until Ctrl-C.

`GET /fake/state` of either shows what it holds. `python -m fakes.hook` sends a webhook as they would.
"""

import json
import signal
import sys
from pathlib import Path

from fakes import github_server, linear_server
from fakes.github_server import APP_ID, FakeGitHub
from fakes.linear_server import FakeLinear


def main() -> None:
    folder, github_port, linear_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "app.pem"
    key.write_text(github_server.private_key())
    # Blocked before the servers' threads start, so that the signal waits for us here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with FakeGitHub(folder.resolve(), github_port) as github, FakeLinear(linear_port) as linear:
        settings = {
            "GITHUB_APP_ID": APP_ID,
            "GITHUB_PRIVATE_KEY_FILE": str(key.resolve()),
            "GITHUB_WEBHOOK_SECRET": github_server.SECRET,
            "GITHUB_API_URL": github.url,
            "GITHUB_GIT_URL": github.git_url,
            "LINEAR_WEBHOOK_SECRET": linear_server.SECRET,
            "LINEAR_API_KEY": linear.api_key,
            "LINEAR_API_URL": linear.url,
            "GITHUB_REPOSITORIES": json.dumps({"acme/shop": "/path/of/a/clone"}),
            "LINEAR_TEAMS": json.dumps({"ENG": "acme/shop"}),
        }
        for name, value in settings.items():
            sys.stdout.write(f"export DEV_TOOLS_{name}='{value}'\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
