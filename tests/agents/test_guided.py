from devtools_platform.agents.guided import Target, extract_function

PLAIN = Target("a.py", "total", 1, 2, "def total(x):\n    return x", 1.0)
METHOD = Target("a.py", "Order.total", 5, 6, "    def total(self):\n        return 1", 1.0)


def test_a_function_is_taken_out_of_a_fenced_answer() -> None:
    answer = "Here it is:\n```python\nimport os\n\ndef total(x):\n    return x + 1\n```\nDone."
    assert extract_function(answer, PLAIN) == "def total(x):\n    return x + 1"


def test_a_method_gets_the_indentation_of_the_old_one() -> None:
    answer = "```python\nclass Order:\n    def total(self):\n        return 2\n```"
    assert extract_function(answer, METHOD) == "    def total(self):\n        return 2"
    assert extract_function("def total(self):\n    return 2", METHOD) == "    def total(self):\n        return 2"


def test_decorators_come_along() -> None:
    assert (
        extract_function("```\n@cache\ndef total(x):\n    return 2\n```", PLAIN)
        == "@cache\ndef total(x):\n    return 2"
    )


def test_an_answer_without_that_function_or_that_does_not_parse_is_none() -> None:
    assert extract_function("```python\ndef other(x):\n    return x\n```", PLAIN) is None
    assert extract_function("```python\ndef total(x)\n    return x\n```", PLAIN) is None
    assert extract_function("I cannot do that.", PLAIN) is None
