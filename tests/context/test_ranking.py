"""The order of answers and their size."""

import pytest

from devtools_platform.context.ranking import fit, rank
from devtools_platform.context.types import Candidate, Chunk
from devtools_platform.context.words import split_words


def candidate(path: str, name: str, *, text: float = 1.0, lines: int = 1) -> Candidate:
    return Candidate("b", Chunk(path, 1, lines, "function", name, "\n".join(["1234567"] * lines)), text, 0.0)


def test_the_definition_of_a_symbol_comes_before_its_uses():
    found = rank("load_config", [candidate("a.py", "main", text=9.0), candidate("b.py", "App.load_config", text=4.0)])
    assert [r.chunk.name for r in found] == ["App.load_config", "main"]
    assert "defines load_config" in found[0].why


def test_a_plain_word_in_a_question_is_not_taken_for_a_symbol():
    pair = [candidate("a.py", "read", text=9.0), candidate("b.py", "load", text=4.0)]
    assert not any(why.startswith("defines") for found in rank("where to load the config", pair) for why in found.why)
    assert "defines load" in rank("load", pair)[0].why


def test_a_name_that_shares_a_word_does_not_outweigh_the_text():
    named = Candidate("b", Chunk("a.py", 1, 1, "function", "is_string"), 1.0, 5.0)
    found = rank("attribute string from a dict", [named, candidate("b.py", "xmlattr", text=7.0)])
    assert found[0].chunk.name == "xmlattr"


def test_meaning_raises_what_shares_no_word():
    words = Candidate("b", Chunk("a.py", 1, 1, "function", "f"), 2.0, 0.0, 0.1)
    meaning = Candidate("b", Chunk("b.py", 1, 1, "function", "g"), 1.0, 0.0, 0.9)
    assert [r.chunk.name for r in rank("a question", [words, meaning])] == ["g", "f"]
    assert "meaning" in rank("a question", [words, meaning])[0].why


def test_scores_are_between_0_and_1():
    for found in (rank("load", [candidate("a.py", "load"), candidate("tests/a.py", "x", text=0.0)]), rank("", [])):
        assert all(0 < item.score < 1 for item in found)


def test_a_word_in_the_path_raises_an_answer():
    found = rank("session expiry", [candidate("a.py", "f"), candidate("auth/session.py", "g")])
    assert found[0].chunk.path == "auth/session.py"


@pytest.mark.parametrize("place", ["bench/state", "bench/state.py", "state.py", "repo/bench/", "./bench/"])
def test_a_place_that_is_named_comes_first(place: str):
    pair = [
        candidate("src/app/state_of_rounds.py", "g", text=5.0),
        candidate("repo/bench/state.py", "f", text=4.0),
    ]
    assert rank("rounds take turns", pair)[0].chunk.path == "src/app/state_of_rounds.py"
    assert rank(f"{place}: rounds take turns", pair)[0].chunk.path == "repo/bench/state.py"


def test_one_long_file_does_not_take_every_place():
    long = [candidate("long.py", f"f{n}", text=9.0 - n / 100) for n in range(20)]
    other = [candidate("other.py", "g", text=7.5)]
    paths = [found.chunk.path for found in rank("parse header", [*long, *other], 8)]
    assert paths[0] == paths[1] == "long.py", "a second place in the best file still counts"
    assert "other.py" in paths


def test_tests_come_after_the_code_unless_asked_for():
    pair = [candidate("tests/test_a.py", "f", text=5.0), candidate("a.py", "g", text=4.5)]
    assert rank("parse header", pair)[0].chunk.path == "a.py"
    assert rank("test of parse header", pair)[0].chunk.path == "tests/test_a.py"


def test_a_test_that_says_more_of_the_words_still_comes_after_the_code():
    pair = [candidate("tests/test_a.py", "f", text=9.0), candidate("a.py", "g", text=5.0)]
    assert rank("parse header", pair)[0].chunk.path == "a.py"


def test_a_name_of_one_word_says_little_to_a_long_question():
    pair = [candidate("a.py", "server", text=4.5), candidate("b.py", "fetch_all", text=7.0)]
    assert rank("a server that hangs is asked once for everybody who waits", pair)[0].chunk.name == "fetch_all"
    assert rank("the server", pair)[0].chunk.name == "server"


@pytest.mark.parametrize("kind", ["class", "struct", "trait"])
def test_how_a_question_begins_says_whether_a_type_or_what_function_is_asked_for(kind: str):
    found = [
        Candidate("b", Chunk("a.py", 1, 1, kind, "Held"), 6.0, 0.0),
        candidate("b.py", "set_open", text=7.0),
        candidate("c.py", "get_open", text=7.0),
    ]
    assert rank("A pool of connections", found)[0].chunk.name == "Held"
    assert rank("Where pools of connections are", found)[0].chunk.name == "set_open", "nothing is known of 'where'"
    assert rank("Returns the connections of a pool", found)[0].chunk.name == "get_open"


@pytest.mark.parametrize("scope", ["prices", "Prices", "shop/prices", "fix(prices)", "feat(shop)!"])
def test_what_stands_before_a_colon_says_where(scope: str):
    pair = [candidate("src/app/totals.py", "g", text=5.0), candidate("src/shop/prices.py", "f", text=3.5)]
    assert rank("round down", pair)[0].chunk.path == "src/app/totals.py"
    assert rank(f"{scope}: round down", pair)[0].chunk.path == "src/shop/prices.py"


def test_answers_fit_the_budget_and_the_last_one_is_cut_at_a_line():
    found = rank("q", [candidate("a.py", "f", text=2.0, lines=10), candidate("b.py", "g", lines=10)])
    first, second = fit(found, limit=8, token_budget=26)
    assert (first.chunk.end_line, second.chunk.end_line) == (10, 3)
    assert second.chunk.text == "1234567\n1234567\n1234567"
    assert second.why[-1] == "cut: goes on to line 10"
    assert len(fit(found, limit=1, token_budget=1000)) == 1


def test_identifiers_are_split_into_words():
    assert split_words("getHTTPHeader snake_case2 Über") == {
        "get",
        "http",
        "header",
        "snake",
        "case",
        "2",
        "ber",
    }
