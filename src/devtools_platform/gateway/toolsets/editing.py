"""Exact replacement in a text, and what to tell an agent whose text does not match. Opens no file."""

from difflib import SequenceMatcher, get_close_matches

from devtools_platform.core.errors import ToolFailed

CLOSE_LINES = 3
CONTEXT_LINES = 2
MAX_LINES_COMPARED = 5_000


def replace_once(path: str, text: str, old: str, new: str) -> str:
    """`text` with `old`, which must stand in it exactly once, replaced by `new`."""
    if not old:
        raise ToolFailed("`old` is empty; give the lines to replace, or use write_file for a whole file.")
    if old == new:
        raise ToolFailed("`old` and `new` are the same; nothing would change.")
    if "\r\n" in text and "\r" not in old:
        # The file has Windows line ends, which models do not see.
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
    places = _find_all(text, old)
    if not places and new and len(_find_all(text, new)) == 1:
        return text  # done before: a call is sent again after an interruption
    if not places:
        raise ToolFailed(f"`old` does not occur in {path!r}.{nearest_lines(text, old)}")
    if len(places) > 1:
        lines = ", ".join(str(text.count("\n", 0, place) + 1) for place in places[:10])
        raise ToolFailed(
            f"`old` occurs {len(places)} times in {path!r} (lines {lines}); it must occur exactly once. "
            "Add lines around the place you mean."
        )
    return text[: places[0]] + new + text[places[0] + len(old) :]


def _find_all(text: str, part: str) -> list[int]:
    """Every place, overlapping ones too: either of them could have been meant."""
    places: list[int] = []
    at = text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places


def nearest_lines(text: str, old: str) -> str:
    """The lines of `text` that look most like `old`, with numbers, for the next try."""
    lines = text.split("\n")[:MAX_LINES_COMPARED]
    wanted = [line for line in old.splitlines() if line.strip()]
    if not wanted:
        return " It is only white space."
    if len(wanted) == 1:
        close = get_close_matches(wanted[0], lines, n=CLOSE_LINES, cutoff=0.5)
        numbers = sorted({lines.index(line) for line in close})
        return _shown(lines, numbers)
    start = _best_start(lines, old.splitlines())
    return _shown(lines, list(range(max(0, start - CONTEXT_LINES), start + len(old.splitlines()) + CONTEXT_LINES)))


def _best_start(lines: list[str], wanted: list[str]) -> int:
    """Where the most lines of `wanted` stand in order, white space aside; ties go to the first."""
    stripped, goal = [line.strip() for line in lines], [line.strip() for line in wanted]
    known = set(goal) - {""}
    starts = [at for at, line in enumerate(stripped) if line in known]
    if not starts:
        close = get_close_matches(max(goal, key=len), stripped, n=1, cutoff=0.4)
        return max(0, stripped.index(close[0]) - goal.index(max(goal, key=len))) if close else 0

    def likeness(start: int) -> float:
        return SequenceMatcher(None, stripped[start : start + len(goal)], goal, autojunk=False).ratio()

    candidates = {max(0, at - place) for at in starts[:50] for place in (0, goal.index(stripped[at]))}
    return max(sorted(candidates), key=likeness)


def _shown(lines: list[str], numbers: list[int]) -> str:
    shown = [f"{number + 1}: {lines[number]}" for number in numbers if number < len(lines)]
    return " The nearest lines are:\n" + "\n".join(shown) if shown else " No line of it looks similar."
