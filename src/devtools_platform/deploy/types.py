"""What a release is: today its version and the git commit it was built from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """`git_sha` is None where the package was installed without its repository."""

    version: str
    git_sha: str | None
