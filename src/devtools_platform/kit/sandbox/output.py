"""What a command printed, kept within bounds: the head and the tail, and how much fell out between."""

TAIL_SHARE = 2
"""The tail is half: that is where test runners put what went wrong."""


class Output:
    """Collects bytes of any amount in bounded memory."""

    def __init__(self, keep: int) -> None:
        self.total = 0
        self._keep_tail = keep // TAIL_SHARE
        self._keep_head = keep - self._keep_tail
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self._keep_head - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * self._keep_tail:
            del self._tail[: -self._keep_tail]

    def text(self) -> str:
        """Head and tail, with a line between them that says how much was dropped."""
        if self.total <= self._keep_head + self._keep_tail:
            return _decode(self._head + self._tail)
        head, tail = _whole_lines(self._head, self._tail[-self._keep_tail :])
        dropped = self.total - len(head) - len(tail)
        return f"{_decode(head)}\n[... {dropped} bytes of output dropped ...]\n{_decode(tail)}"


def _whole_lines(head: bytearray, tail: bytearray) -> tuple[bytearray, bytearray]:
    """Cut at line ends if there are any: half a secret would escape the redactor, which knows whole ones."""
    end, start = head.rfind(b"\n"), tail.find(b"\n")
    return (head[:end] if end >= 0 else head, tail[start + 1 :])


def _decode(text: bytearray) -> str:
    return text.decode("utf-8", errors="replace")
