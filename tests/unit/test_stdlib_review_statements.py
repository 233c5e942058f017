"""Each detector of odd statements and names: what it finds, and what it leaves alone."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from examples.stdlib_review import names, statements
from examples.stdlib_review.outline import outline
from examples.stdlib_review.review import Detector


def lines_found(detector: Detector, code: str) -> list[int]:
    return [oddity.line for oddity in detector(outline(ast.parse(dedent(code).strip("\n"))))]


FOUND = [
    pytest.param(statements.bare_excepts, "try:\n    a\nexcept:\n    b", [3], id="bare except"),
    pytest.param(
        statements.swallowed_exceptions,
        "try:\n    a\nexcept Exception:\n    pass",
        [3],
        id="swallowed exception",
    ),
    pytest.param(statements.mutable_defaults, "def f(a=[], *, b={}): pass", [1, 1], id="display as default"),
    pytest.param(statements.mutable_defaults, "f = lambda a=dict(): a", [1], id="call as default"),
    pytest.param(statements.unreachable_code, "def f():\n    return 1\n    g()", [3], id="after return"),
    pytest.param(
        statements.unreachable_code,
        "for a in b:\n    if a:\n        c\n    else:\n        break\n        d",
        [6],
        id="after break in else",
    ),
    pytest.param(statements.odd_comparisons, "a == None", [1], id="equal to None"),
    pytest.param(statements.odd_comparisons, "a is not 'x'", [1], id="identity of a text"),
    pytest.param(statements.odd_comparisons, "a < b != None", [1], id="chained comparison"),
    pytest.param(statements.asserted_tuples, "assert (a, 'message')", [1], id="asserted tuple"),
    pytest.param(statements.duplicate_keys, "{'a': 1, 'b': 2, 'a': 3}", [1], id="duplicate key"),
    pytest.param(statements.self_assignments, "a = a", [1], id="self assignment"),
    pytest.param(
        statements.returns_in_finally,
        "def f():\n    try:\n        a\n    finally:\n        return 1",
        [5],
        id="return in finally",
    ),
    pytest.param(
        statements.many_parameters, "def f(a, b, c, d, e, f, g, h, i, j, k): pass", [1], id="many parameters"
    ),
    pytest.param(names.unused_imports, "import os\nimport sys\nsys.exit()", [1], id="unused import"),
    pytest.param(names.unused_imports, "from a import b as c", [1], id="unused alias"),
    pytest.param(names.shadowed_builtins, "def f(list): pass", [1], id="parameter hides builtin"),
    pytest.param(names.shadowed_builtins, "def f():\n    id = 1", [2], id="variable hides builtin"),
    pytest.param(names.shadowed_builtins, "def print(): pass", [1], id="function hides builtin"),
    pytest.param(names.unused_variables, "def f():\n    a = 1\n    a = 2", [2], id="unused variable"),
]

LEFT_ALONE = [
    pytest.param(statements.bare_excepts, "try:\n    a\nexcept:\n    b\n    raise", id="raised again"),
    pytest.param(statements.bare_excepts, "try:\n    a\nexcept OSError:\n    b", id="named exception"),
    pytest.param(
        statements.swallowed_exceptions, "try:\n    a\nexcept KeyError:\n    pass", id="narrow exception"
    ),
    pytest.param(statements.mutable_defaults, "def f(a=(), b=None, c=frozenset()): pass", id="constants"),
    pytest.param(
        statements.unreachable_code, "def f():\n    if a:\n        return 1\n    g()", id="after a branch"
    ),
    pytest.param(statements.odd_comparisons, "a is None and b == 1 and c is True", id="as it should be"),
    pytest.param(statements.asserted_tuples, "assert a, 'message'", id="assertion with message"),
    pytest.param(statements.duplicate_keys, "{1: 'a', True: 'b', **c, **c}", id="equal keys of other types"),
    pytest.param(statements.self_assignments, "a = b", id="assignment"),
    pytest.param(
        statements.returns_in_finally,
        "try:\n    a\nfinally:\n    for b in c:\n        break",
        id="break of a loop inside finally",
    ),
    pytest.param(names.unused_imports, "from __future__ import annotations", id="future"),
    pytest.param(names.unused_imports, "from a import b as b", id="import for others"),
    pytest.param(names.unused_imports, "from a import b\n__all__ = ['b']", id="exported"),
    pytest.param(names.unused_imports, "from a import *", id="star"),
    pytest.param(names.shadowed_builtins, "class A:\n    def print(self): pass", id="method"),
    pytest.param(names.unused_variables, "def f():\n    a = 1\n    return lambda: a", id="used inside"),
    pytest.param(names.unused_variables, "def f():\n    a = 1\n    return locals()", id="all names seen"),
    pytest.param(names.unused_variables, "def f():\n    global a\n    a = 1", id="global"),
    pytest.param(names.unused_variables, "def f():\n    a, _b = g()", id="unpacking"),
]


@pytest.mark.parametrize(("detector", "code", "lines"), FOUND)
def test_a_detector_finds_its_oddity_at_the_right_line(
    detector: Detector, code: str, lines: list[int]
) -> None:
    assert lines_found(detector, code) == lines


@pytest.mark.parametrize(("detector", "code"), LEFT_ALONE)
def test_a_detector_leaves_sound_code_alone(detector: Detector, code: str) -> None:
    assert lines_found(detector, code) == []


def test_a_function_with_blocks_six_deep_is_deeply_nested_and_one_with_five_is_not() -> None:
    def nested(depth: int) -> str:
        head = "".join(f"{'    ' * level}if a:\n" for level in range(1, depth + 1))
        return f"def f():\n{head}{'    ' * (depth + 1)}b"

    assert lines_found(statements.deep_nesting, nested(6)) == [1]
    assert lines_found(statements.deep_nesting, nested(5)) == []
