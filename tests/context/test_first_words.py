"""What the first words of a question say: counted, not made up."""

from devtools_platform.context.first_words import find_beginning
from devtools_platform.context.words import find_verb


def test_what_begins_docstrings_of_functions_speaks_against_classes_and_for_its_verbs():
    returns = find_beginning("Returns the total.")
    assert returns
    assert returns.for_type < -4
    assert returns.for_verb("get") > 0.5
    assert returns.for_verb("set") < -0.5


def test_an_article_speaks_for_types():
    article = find_beginning("A pool of connections")
    assert article
    assert article.for_type > 0.5


def test_two_words_say_more_than_one():
    returns, whether = find_beginning("Return the total."), find_beginning("Return whether it is open.")
    assert returns
    assert whether
    assert whether.for_verb("is") > returns.for_verb("is") + 1
    assert whether.for_verb("get") < 0


def test_what_was_seen_too_seldom_says_nothing():
    assert find_beginning("Zygomorphic flowers") is None
    assert find_beginning("") is find_beginning("?") is None
    returns = find_beginning("return")
    assert returns
    assert returns.for_verb("zygomorph") == 0


def test_the_verb_of_a_name_is_found_under_underscores_and_asynchronous_forms():
    names = ["get_total", "Order._get_total", "Order.async_get_total", "Order.aget_total", "getTotal"]
    assert {find_verb(name) for name in names} == {"get"}
    assert find_verb("Order.__init__") == "init"
