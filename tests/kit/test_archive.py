"""Folders into one encrypted file and back: what comes out is what went in, or nothing that could be taken for it."""

import io
import os
import tarfile
from pathlib import Path

import pyrage
import pytest

from devtools_platform.core.errors import BadInput, Forbidden
from devtools_platform.kit.archive import make_key, pack, unpack


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "key.txt"


@pytest.fixture
def public(key: Path) -> str:
    return make_key(key)


def fresh(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def listing(folder: Path) -> dict[str, bytes | str | None]:
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def make_tree(folder: Path) -> Path:
    (folder / "empty").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "one").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "two").hardlink_to(folder / "deep" / "er" / "one")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o4755)
    (folder / "out").symlink_to("/etc")
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    return folder


def test_folders_come_back_as_they_were(tmp_path: Path, key: Path, public: str) -> None:
    tree, file = make_tree(tmp_path / "tree"), tmp_path / "file.age"

    size = pack(file, {"a": tree, "b": tree / "deep"}, public)
    unpack(file, out := fresh(tmp_path), key)

    (tree / "pipe").unlink()
    assert listing(out / "a") == listing(tree)
    assert listing(out / "b") == listing(tree / "deep")
    assert (size, file.stat().st_mode & 0o777) == (file.stat().st_size, 0o600)
    assert (out / "a" / "tool.sh").stat().st_mode & 0o7777 == 0o755, "no program gets another user's rights"
    assert key.stat().st_mode & 0o777 == 0o600


def test_age_itself_opens_it_and_it_says_nothing_without_the_key(tmp_path: Path, key: Path, public: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "token").write_text("s3cret-token")
    pack(tmp_path / "file.age", {"a": tmp_path / "tree"}, public)
    sealed = (tmp_path / "file.age").read_bytes()

    assert sealed.startswith(b"age-encryption.org/v1\n")
    assert b"s3cret" not in sealed
    opened = pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(key.read_text().splitlines()[1])])
    with tarfile.open(fileobj=io.BytesIO(opened)) as tar:
        assert tar.getnames() == ["a", "a/token"]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99999])
def test_a_cut_archive_is_refused(tmp_path: Path, key: Path, public: str, kept: float) -> None:
    file = tmp_path / "file.age"
    pack(file, {"a": make_tree(tmp_path / "tree")}, public)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])

    with pytest.raises(BadInput, match="no whole archive"):
        unpack(file, fresh(tmp_path), key)


def test_one_changed_bit_is_seen(tmp_path: Path, key: Path, public: str) -> None:
    file = tmp_path / "file.age"
    pack(file, {"a": make_tree(tmp_path / "tree")}, public)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)

    with pytest.raises(BadInput, match="no whole archive"):
        unpack(file, fresh(tmp_path), key)


def test_another_key_opens_nothing(tmp_path: Path, public: str) -> None:
    file, other = tmp_path / "file.age", tmp_path / "other.txt"
    pack(file, {"a": make_tree(tmp_path / "tree")}, public)
    make_key(other)

    with pytest.raises(Forbidden, match="does not open"):
        unpack(file, fresh(tmp_path), other)
    with pytest.raises(BadInput, match="cannot be made"):
        make_key(other)
    with pytest.raises(BadInput, match="public key"):
        pack(file, {}, "age1nonsense")


def test_an_archive_of_somebody_else_writes_nowhere_else(tmp_path: Path, key: Path, public: str) -> None:
    """The public key is no secret: anybody can make an archive that opens with ours."""

    def forge(*members: tuple[str, bytes, str]) -> Path:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for name, kind, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = kind, link, 0
                tar.addfile(info)
        file = tmp_path / "forged.age"
        file.write_bytes(pyrage.encrypt(raw.getvalue(), [pyrage.x25519.Recipient.from_str(public)]))
        return file

    outside = tmp_path / "outside"
    outside.mkdir()
    out = fresh(tmp_path)
    for members in (
        [("../outside/x", tarfile.REGTYPE, "")],
        [(str(outside / "x"), tarfile.REGTYPE, "")],
        [("l", tarfile.SYMTYPE, str(outside)), ("l/x", tarfile.REGTYPE, "")],
        [("m", tarfile.LNKTYPE, "/etc/passwd")],
        [("n", tarfile.CHRTYPE, "")],
    ):
        with pytest.raises(BadInput, match=r"leads out of it|is no file"):
            unpack(forge(*members), out, key)
    with pytest.raises(BadInput):
        unpack(forge(("p", tarfile.SYMTYPE, str(outside / "x")), ("p", tarfile.REGTYPE, "")), out, key)
    assert not list(outside.iterdir())


def test_a_failed_archive_leaves_the_older_file(tmp_path: Path, public: str) -> None:
    file = tmp_path / "file.age"
    file.write_text("older")

    with pytest.raises(BadInput, match="cannot be used"):
        pack(tmp_path / "none" / "file.age", {}, public)
    with pytest.raises(BadInput, match="public key"):
        pack(file, {}, "nonsense")

    assert file.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
