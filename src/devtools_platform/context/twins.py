"""Names of asynchronous twins: `acancel_run` beside `cancel_run`, as Django, LangChain and many others call them.

Nobody asks for "acancel", and neither words nor the model know it: taken apart it is found by "cancel" and by "async".
"""

import re

_VERBS = frozenset(
    """
    add aggregate append apply approve authenticate batch build bulk call cancel chat check clear close complete
    compress connect contains count create delete disconnect dispatch embed emit enter evaluate execute exists
    exit expand explain export extract fetch filter find first flush forward generate get handle has import
    index ingest initialize inject insert invoke iter join kickoff last latest list load log login logout lookup
    merge parse patch pause perform persist poll predict prepare process publish put query read recall record
    refresh register release remember remove render reset resolve resume retrieve retry run save scan score
    search select send set setup similarity start stop store stream submit summarize synthesize transcribe
    transform translate update upload upsert use validate verify write yield
    """.split()  # noqa: SIM905 - a list of words
)
"""With which such names go on. None makes another word with the a, as `wait` would."""
_LEAF = re.compile(r"(_*)a([a-z]+)(?=_|$)")


def take_apart(name: str) -> str:
    """`Crew.akickoff` as `Crew.async_kickoff`; any other qualified name as it is."""
    found = _find(name)
    return f"{name[: found.start()]}{found[1]}async_{found[2]}{name[found.end() :]}" if found else name


def list_hidden_words(name: str) -> str:
    """What such a name says but no word of it does: `async kickoff`. Empty for any other."""
    found = _find(name)
    return f"async {found[2]}" if found else ""


def _find(name: str) -> re.Match[str] | None:
    found = _LEAF.match(name, name.rfind(".") + 1)
    return found if found and found[2] in _VERBS else None
