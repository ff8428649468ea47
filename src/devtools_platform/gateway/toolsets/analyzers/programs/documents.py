# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""YAML documents with the line of every value. Used by the programs beside it; imports nothing of ours."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Unknown tags are kept as plain values: GitLab's `!reference`, CloudFormation's."""


def _plain(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


Loader.add_multi_constructor("!", _plain)
# `on:` is a key of GitHub's workflows and a truth value of YAML 1.1; dates stay strings, as in JSON.
Loader.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for letter in "oOyYnN":
    Loader.yaml_implicit_resolvers[letter] = [
        (tag, regexp)
        for tag, regexp in Loader.yaml_implicit_resolvers.get(letter, [])
        if tag != "tag:yaml.org,2002:bool"
    ]


class Document:
    """One document of a file: its value and its nodes."""

    def __init__(self, node: yaml.Node) -> None:
        self.node = node
        loader = Loader("")
        self.value: Any = loader.construct_document(node)

    def lines(self, path: Sequence[Any]) -> tuple[int, int]:
        """First and last line of the value at `path`, from 1; of the deepest part of it that is there."""
        node, key = self.node, None
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            key, node = found
        first = (key or node).start_mark.line + 1
        last = node.end_mark.line + (0 if node.end_mark.column == 0 and node.end_mark.line else 1)
        return first, max(first, last)


def _child(node: yaml.Node, part: Any) -> tuple[yaml.Node | None, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == str(part):
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None


def load_documents(text: str) -> Iterator[Document]:
    """Raises `yaml.YAMLError`."""
    for node in yaml.compose_all(text, Loader=Loader):
        if node is not None:
            yield Document(node)
