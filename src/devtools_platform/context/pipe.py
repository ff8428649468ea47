"""The child's end of a pipe between the service and a process of its own: requests in, answers out, in turn.

Messages are msgpack with their length in front: a few megabytes cost a few milliseconds. The parent's end is
`child.py`. Nothing else is known here: the engine's process and the one that cuts files both serve with it.
"""

import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import msgspec

LENGTH = struct.Struct("<I")
MAX_BYTES = 64_000_000
"""Of one message. A batch or an answer is a few hundred kilobytes; more is a fault, not a load."""

Operations = Mapping[str, Callable[..., Any]]


def serve(operations: Operations) -> None:
    """Answer until the input ends, which is how this process learns that its parent is gone."""
    # Answers go to a private copy of stdout, so that nothing a library prints can ever be taken for one.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        try:
            while head := sys.stdin.buffer.read(LENGTH.size):
                _write(answers, _answer(operations, sys.stdin.buffer.read(*LENGTH.unpack(head))))
        except (BrokenPipeError, struct.error):
            return


def _answer(operations: Operations, request: bytes) -> tuple[int, str | None, Any]:
    number, operation, arguments = msgspec.msgpack.decode(request)
    try:
        return number, None, operations[operation](**arguments)
    except Exception as error:  # noqa: BLE001 - the engine raises bare Exception; the parent must hear of it
        return number, f"{type(error).__name__}: {error}", None


def _write(answers: BinaryIO, answer: tuple[int, str | None, Any]) -> None:
    body = msgspec.msgpack.encode(answer)
    answers.write(LENGTH.pack(len(body)) + body)
    answers.flush()
