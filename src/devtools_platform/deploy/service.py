"""Which release this process is."""

from pathlib import Path

from devtools_platform import __version__
from devtools_platform.deploy.types import Release

SOURCE = Path(__file__).parents[3]


def current_release() -> Release:
    """The running release. The commit is read from the checkout this code runs from, if it does."""
    return Release(__version__, _read_commit(SOURCE / ".git"))


def _read_commit(git_dir: Path) -> str | None:
    head = git_dir / "HEAD"
    if not head.is_file():
        return None
    text = head.read_text().strip()
    if not text.startswith("ref: "):
        return text
    ref = text.removeprefix("ref: ")
    loose = git_dir / ref
    if loose.is_file():
        return loose.read_text().strip()
    packed = git_dir / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), None)
