"""Variables that may be read before they have a value: every way through a function is followed."""

from __future__ import annotations

import ast
from textwrap import dedent, indent

import pytest

from examples.stdlib_review.flow import unbound_variables
from examples.stdlib_review.outline import outline


def unbound(body: str) -> list[str]:
    """Return the variables that may be unbound in a function ``f(given)`` with this body."""
    code = "def f(given):\n" + indent(dedent(body).strip("\n"), "    ")
    return [oddity.detail.split()[0] for oddity in unbound_variables(outline(ast.parse(code)))]


UNBOUND = [
    pytest.param("if given:\n    a = 1\nreturn a", id="one branch only"),
    pytest.param("for a in given:\n    pass\nreturn a", id="loop that may not run"),
    pytest.param("while given():\n    a = 1\nreturn a", id="while that may not run"),
    pytest.param("try:\n    a = given()\nexcept OSError:\n    pass\nreturn a", id="error before the value"),
    pytest.param("try:\n    a = given()\nfinally:\n    a.close()", id="finally after an error"),
    pytest.param(
        "while True:\n    if given:\n        break\n    a = 1\nreturn a", id="break before the value"
    ),
    pytest.param("a = 1\ndel a\nreturn a", id="deleted"),
    pytest.param("match given:\n    case 1:\n        a = 1\nreturn a", id="no case matches"),
    pytest.param("a += 1", id="added to nothing"),
    pytest.param("return a\na = 1", id="read before written"),
]

BOUND = [
    pytest.param("if given:\n    a = 1\nelse:\n    a = 2\nreturn a", id="both branches"),
    pytest.param("if given:\n    a = 1\nelse:\n    raise ValueError\nreturn a", id="the other branch leaves"),
    pytest.param("while True:\n    a = 1\n    if given:\n        break\nreturn a", id="endless loop"),
    pytest.param("try:\n    a = given()\nexcept OSError:\n    a = None\nreturn a", id="value in the handler"),
    pytest.param("try:\n    a = given()\nexcept OSError:\n    return 1\nreturn a", id="handler leaves"),
    pytest.param("with given as a:\n    pass\nreturn a", id="with"),
    pytest.param("if (a := given) and a:\n    return a", id="walrus in its own condition"),
    pytest.param("return [a for a in given]", id="comprehension"),
    pytest.param("global a\nprint(a)\na = 1", id="global"),
    pytest.param(
        "match given:\n    case 1:\n        a = 1\n    case _:\n        a = 2\nreturn a", id="all cases"
    ),
    pytest.param("for _ in given:\n    pass\nelse:\n    a = 1\n    return a", id="else of a loop"),
    pytest.param("def inner():\n    return a\na = 1\nreturn inner", id="inner function runs later"),
]


@pytest.mark.parametrize("body", UNBOUND)
def test_a_variable_without_a_value_on_some_way_is_reported_once(body: str) -> None:
    assert unbound(body) == ["a"]


@pytest.mark.parametrize("body", BOUND)
def test_a_variable_with_a_value_on_all_ways_is_not_reported(body: str) -> None:
    assert "a" not in unbound(body)
