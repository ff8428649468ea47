"""A stack's data directory, whole and by services apart."""

from pathlib import Path

from devtools_platform.app.home import Home


def test_secrets_lie_in_the_data_directory_or_where_services_apart_share_them(tmp_path: Path) -> None:
    whole = Home(tmp_path / "whole")
    whole.prepare()
    whole.keep_secret("managed-agents.json", "{}")
    assert (tmp_path / "whole/managed-agents.json").stat().st_mode & 0o777 == 0o600

    shared = tmp_path / "volume"
    shared.mkdir()
    homes: list[Home] = []
    for name in ("agents", "worker"):
        homes.append(Home(tmp_path / name))
        homes[-1].prepare()
        (tmp_path / name / "kept").symlink_to(shared)
    homes[0].keep_secret("managed-agents.json", "{}")
    assert homes[1].find_secret("managed-agents.json") == "{}"
    assert homes[0].secret("token") == homes[1].secret("token")
