"""What of a file is searched, and what is not."""

import pytest

from devtools_platform.context.chunking import MAX_FILE_BYTES, chunk_file, find_skipped_path

TOKEN = "ghp_" + "a1B2" * 9


def show(path: str, text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [f"{c.kind} {c.name} {c.start_line}-{c.end_line}" for c in chunk_file(path, content).chunks]


def test_functions_are_whole_and_the_comment_above_belongs_to_them():
    text = "import os\n\n# Adds.\n# Twice.\ndef add(a):\n    return a\n\n\n"
    text += "class C:\n    x = 1\n\n    def m(self):\n        pass\n"
    assert show("a.py", text) == ["module  1-1", "function add 3-6", "class C 9-10", "method C.m 12-13"]


def test_a_chunk_carries_its_path_and_names_in_its_header():
    chunk = chunk_file("src/a.py", b"class C:\n    def m(self):\n        pass\n").chunks[-1]
    assert (chunk.header, chunk.text) == ("src/a.py method C.m", "    def m(self):\n        pass")


def test_a_long_function_is_split_and_every_part_keeps_the_name():
    text = "def long():\n" + "    x = 1\n" * 150
    assert show("a.py", text) == ["function long 1-60", "function long 61-120", "function long 121-151"]


def test_text_without_structure_is_cut_into_windows():
    assert show("notes.txt", "word\n" * 130) == ["text  1-60", "text  61-120", "text  121-130"]


def test_markdown_is_cut_by_heading():
    assert show("a.md", "# One\nfirst\n## Two\nsecond\n") == ["section One 1-2", "section One.Two 3-4"]


def test_only_the_part_with_a_secret_is_left_out():
    done = chunk_file("a.py", f'def a():\n    return 1\n\ndef b():\n    return "{TOKEN}"\n'.encode())
    assert [c.name for c in done.chunks] == ["a"]
    assert done.skipped == "not the parts that hold what looks like a secret (line 5)"


def test_a_file_with_a_private_key_is_left_out_whole():
    done = chunk_file("a.txt", b"fine\n" * 100 + b"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n" + b"MORE\n" * 100)
    assert (done.chunks, done.skipped) == ([], "holds a private key")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\0b", "binary"),
        (b"x = 1;" * 2000, "minified or generated (longest line 12000 characters)"),
        ((b"y" * 499 + b"\n") * 20, "minified or generated (longest line 499 characters)"),
    ],
)
def test_binary_and_generated_content_is_left_out(content: bytes, reason: str):
    done = chunk_file("a.js", content)
    assert (done.chunks, done.skipped) == ([], reason)


def test_invalid_utf8_is_replaced():
    chunk = chunk_file("a.py", b"def caf\xe9():\n    pass\n# \xff\xfe\n").chunks[0]
    assert "caf\ufffd" in chunk.text


def test_a_long_line_is_cut_but_its_neighbours_are_kept():
    text = "def f():\n    pass\n" * 40 + f"data = '{'z' * 3000}'\n"
    last = chunk_file("a.py", text.encode()).chunks[-1]
    assert len(last.text) == 1000


@pytest.mark.parametrize("content", [b"", b"\n\n", b"}\n", b"(" * 4000, b"def " * 900])
def test_odd_content_never_raises(content: bytes):
    assert chunk_file("a.py", content).skipped is None


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("web/node_modules/x/index.js", "web/node_modules/"),
        ("app.min.js", "app.min.js"),
        ("uv.lock", "uv.lock"),
        (".env", ".env"),
        ("certs/server.pem", "certs/server.pem"),
    ],
)
def test_foreign_generated_and_credential_files_are_not_read(path: str, named: str):
    found = find_skipped_path(path, 10)
    assert found
    assert found[0] == named


def test_large_files_are_not_read_and_ordinary_ones_are():
    assert find_skipped_path("a.py", MAX_FILE_BYTES + 1)
    assert find_skipped_path("src/vendors.py", MAX_FILE_BYTES) is None
    assert find_skipped_path(".env.example", 10) is None


def test_markdown_without_a_heading_is_cut_by_its_lines():
    chunks = chunk_file("notes.md", b"no heading here\nonly words\n").chunks
    assert [(c.kind, c.start_line, c.end_line) for c in chunks] == [("text", 1, 2)]
