"""Where the definitions of a file are: exact line spans, read from its syntax tree.

Pure and offline: the grammars come with a wheel. A definition's span includes its decorators, attributes and
`export`, so that replacing the span replaces the definition. Files of other languages have no symbols.
"""

import re
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath

from semble_grammars import GrammarLoadError, UnsupportedPlatformError, get_language
from tree_sitter import Language, Node, Parser, Query, QueryCursor

from devtools_platform.context.python_outline import outline_python
from devtools_platform.context.types import Symbol
from devtools_platform.core.errors import Unavailable

PARSE_SECONDS = 1.0
"""A megabyte of ordinary code takes 0.1 s; what takes longer was made to."""

_EXTENSIONS = {
    "bash": (".sh", ".bash"),
    "c": (".c", ".h"),
    "cpp": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"),
    "csharp": (".cs",),
    "go": (".go",),
    "hcl": (".hcl", ".tf", ".tfvars"),
    "java": (".java",),
    "javascript": (".js", ".jsx", ".mjs", ".cjs"),
    "kotlin": (".kt", ".kts"),
    "lua": (".lua",),
    "php": (".php",),
    "python": (".py", ".pyi"),
    "ruby": (".rb", ".rake"),
    "rust": (".rs",),
    "scala": (".scala",),
    "solidity": (".sol",),
    "swift": (".swift",),
    "tsx": (".tsx",),
    "typescript": (".ts", ".mts", ".cts"),
    "zig": (".zig",),
}
LANGUAGES = {extension: language for language, extensions in _EXTENSIONS.items() for extension in extensions}

# Grammars name the same thing alike; those a grammar does not know are left out of its query.
_KINDS = {
    "function_definition": "function",
    "function_declaration": "function",
    "generator_function_declaration": "function",
    "function_item": "function",
    "macro_definition": "function",
    "method_definition": "function",
    "method_declaration": "function",
    "constructor_declaration": "function",
    "constructor_definition": "function",
    "init_declaration": "function",
    "method": "function",
    "singleton_method": "function",
    "class": "class",
    "class_definition": "class",
    "class_declaration": "class",
    "abstract_class_declaration": "class",
    "class_specifier": "class",
    "contract_declaration": "class",
    "enum_declaration": "enum",
    "enum_item": "enum",
    "enum_specifier": "enum",
    "impl_item": "impl",
    "interface_declaration": "interface",
    "internal_module": "namespace",
    "mod_item": "module",
    "module": "module",
    "namespace_declaration": "namespace",
    "namespace_definition": "namespace",
    "object_declaration": "object",
    "object_definition": "object",
    "protocol_declaration": "interface",
    "record_declaration": "class",
    "struct_declaration": "struct",
    "struct_item": "struct",
    "struct_specifier": "struct",
    "trait_declaration": "trait",
    "trait_definition": "trait",
    "trait_item": "trait",
    "type_alias_declaration": "type",
    "type_spec": "type",
    "union_item": "struct",
}
_NEEDS_BODY = {"struct_specifier", "class_specifier", "enum_specifier"}  # without one it is a use of the type
_NOT_CLASSES = {"function", "method", "namespace", "module"}

_JS_VALUES = "[(arrow_function) (function_expression)]"
_EXTRA = {
    "javascript": f"""
        (variable_declarator value: {_JS_VALUES}) @function
        (field_definition value: {_JS_VALUES}) @function""",
    "typescript": f"""
        (variable_declarator value: {_JS_VALUES}) @function
        (public_field_definition value: {_JS_VALUES}) @function""",
    "hcl": "(config_file (body (block) @block))",
}
_EXTRA["tsx"] = _EXTRA["typescript"]

# Outer nodes that belong to a definition: always, or when they hold nothing else.
_WRAPPERS = {"decorated_definition", "export_statement", "template_declaration"}
_LONE_WRAPPERS = {"lexical_declaration", "variable_declaration", "type_declaration", "expression_statement"}
_PREFIXES = {"attribute_item", "decorator"}

_HEADING = re.compile(r"(#{1,6})(?:\s+(.*?))?\s*#*\s*$")
_UNTITLED = "untitled"
"""A heading may be empty (CommonMark 4.2); it parts sections all the same."""
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")


def outline(path: str, text: str) -> list[Symbol]:
    """Every definition (or Markdown section) of a file, in the order of its lines; [] where none are known.

    A file that does not parse within its time has no symbols either.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in {".md", ".markdown", ".mdx"}:
        return list(_list_sections(text))
    language = LANGUAGES.get(suffix)
    if language == "python" and (found := outline_python(text)) is not None:
        return found
    return _list_definitions(language, text.encode()) if language else []


def _list_definitions(language: str, source: bytes) -> list[Symbol]:
    root = _parse(language, source)
    if root is None:
        return []
    found = [(kind, node) for kind, nodes in QueryCursor(_get_query(language)).captures(root).items() for node in nodes]
    found.sort(key=lambda item: (item[1].start_byte, -item[1].end_byte))
    symbols: list[Symbol] = []
    around: list[tuple[Node, Symbol]] = []
    for kind, node in found:
        while around and around[-1][0].end_byte <= node.start_byte:
            around.pop()
        if symbol := _read_symbol(kind, node, around[-1][1] if around else None, source):
            symbols.append(symbol)
            around.append((node, symbol))
    return symbols


def _parse(language: str, source: bytes) -> Node | None:
    """The root of the tree, or None when the time is up.

    Reading through a callback is what lets the parser be stopped, and other threads run meanwhile.
    """
    deadline = time.monotonic() + PARSE_SECONDS
    try:
        tree = Parser(_get_language(language)).parse(
            lambda offset, _: source[offset : offset + 65536],
            encoding="utf8",
            progress_callback=lambda _, __: time.monotonic() > deadline,
        )
    except ValueError:  # how the binding says that the callback stopped it
        return None
    return tree.root_node


@lru_cache
def _get_language(name: str) -> Language:
    try:
        return get_language(name)
    except (GrammarLoadError, UnsupportedPlatformError) as error:
        raise Unavailable(
            f"The grammar for {name!r} does not load: {error}.",
            hint="Grammars are unpacked into the user's cache folder: it must be writable and executable.",
        ) from error


@lru_cache
def _get_query(name: str) -> Query:
    language = _get_language(name)
    known = {node: kind for node, kind in _KINDS.items() if language.id_for_node_kind(node, True)}
    patterns = [f"({node}) @{kind}" for node, kind in known.items()]
    return Query(language, "\n".join([*patterns, _EXTRA.get(name, "")]))


def _read_symbol(kind: str, node: Node, parent: Symbol | None, source: bytes) -> Symbol | None:
    name = _read_name(kind, node, source)
    if not name or (node.type in _NEEDS_BODY and not node.child_by_field_name("body")):
        return None
    if kind == "function" and parent and parent.kind not in _NOT_CLASSES:
        kind = "method"
    start, end = _get_span(node)
    return Symbol(name, kind, start, end, parent.qualified if parent else None)


def _read_name(kind: str, node: Node, source: bytes) -> str | None:
    if kind == "block":
        labels = [child for child in node.children if child.type in {"identifier", "string_lit"}]
        return " ".join(_get_text(label, source).strip('"') for label in labels)
    field = "type" if node.type == "impl_item" else "name"
    named = node.child_by_field_name(field) or node.child_by_field_name("property")
    if named is None:  # C keeps the name at the end of a chain of declarators
        named = node.child_by_field_name("declarator")
        while named and (inner := named.child_by_field_name("declarator")):
            named = inner
    return _get_text(named, source) if named else None


def _get_text(node: Node, source: bytes) -> str:
    """Not `node.text`: of a tree that was read through a callback it is slow."""
    return source[node.start_byte : node.end_byte].decode(errors="replace")


def _get_span(node: Node) -> tuple[int, int]:
    outer = node
    while (parent := outer.parent) and (
        parent.type in _WRAPPERS or (parent.type in _LONE_WRAPPERS and parent.named_child_count == 1)
    ):
        outer = parent
    first = outer
    while (before := first.prev_named_sibling) and before.type in _PREFIXES:
        first = before
    end = outer.end_point
    last_line = end.row if end.column == 0 and end.row > outer.start_point.row else end.row + 1
    return first.start_point.row + 1, last_line


def _list_sections(text: str) -> Iterator[Symbol]:
    """Each heading with the lines up to the next heading of any level; its parent is the heading above it."""
    headings = list(_list_headings(text))
    last = max(1, text.count("\n") + (not text.endswith("\n")))
    above: list[tuple[int, Symbol]] = []
    for (line, level, title), following in pairwise([*headings, (last + 1, 0, "")]):
        while above and above[-1][0] >= level:
            above.pop()
        symbol = Symbol(title, "section", line, following[0] - 1, above[-1][1].qualified if above else None)
        above.append((level, symbol))
        yield symbol


def _list_headings(text: str) -> Iterator[tuple[int, int, str]]:
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        elif not fence and (heading := _HEADING.match(line)):
            yield number, len(heading[1]), heading[2] or _UNTITLED
