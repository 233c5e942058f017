"""Measures of functions, and code that stands there twice."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from examples.stdlib_review import blocks, comments, duplicates, metrics
from examples.stdlib_review.outline import Outline, outline


def module(code: str) -> Outline:
    return outline(ast.parse(dedent(code).strip("\n")))


@pytest.mark.parametrize(
    ("body", "ways"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("if a and b or c: pass", 4),
        ("return [x for x in y if x if not z]", 4),
        ("try: pass\n except A: pass\n except B: pass", 3),
        ("while a: pass", 2),
        ("return a if b else c", 2),
        ("def inner():\n  if a: pass", 1),
        ("match a:\n  case 1: pass\n  case 2: pass", 3),
    ],
)
def test_complexity_counts_the_ways_through_a_function(body: str, ways: int) -> None:
    assert metrics.complexity(module(f"def f():\n {body}").functions[0]) == ways


def test_an_elif_is_not_deeper_than_its_if_but_a_block_inside_is() -> None:
    code = """
        def f():
            if a:
                pass
            elif b:
                for c in d:
                    pass
            elif e:
                pass
    """
    assert module(code).functions[0].nesting == 2


def test_functions_are_named_by_what_is_around_them_and_come_in_the_order_of_the_source() -> None:
    code = """
        class A:
            def b(self):
                def c(): pass
            class D:
                async def e(self): pass
        def f(): pass
    """
    assert [function.name for function in module(code).functions] == ["A.b", "A.b.c", "A.D.e", "f"]


def test_length_counts_from_def_to_the_last_line() -> None:
    assert metrics.length(module("@d\ndef f(\n  a,\n):\n  return (\n    a\n  )").functions[0].node) == 6


def test_a_long_winding_function_is_less_maintainable_than_a_short_one() -> None:
    short, long = module("def f(): return 1"), module("def f(a):\n" + " if a: a = g(a, 1, 'x')\n" * 60)
    marks = [
        metrics.measure(each.functions[0], duplicates.normal_form(each.functions[0].node)).maintainability
        for each in (short, long)
    ]
    assert marks[0] > 80
    assert marks[1] < 40


LONG = """
    def {name}({parameter}):
        total = {start}
        for {item} in {parameter}.items():
            if {item}.size > 10 and not {item}.hidden:
                total += {item}.size * {item}.weight
            elif {item}.hidden:
                print({item}.name, "is hidden", total)
            else:
                total -= max({item}.size, 0)
        while total > 100:
            total = total // 2 + len({parameter}.rest)
        return total
"""
FIRST = LONG.format(name="first", parameter="tree", start=0, item="leaf")
SECOND = LONG.format(name="second", parameter="bag", start=7, item="thing")


def test_functions_that_differ_in_names_and_constants_only_have_one_fingerprint() -> None:
    prints = {
        duplicates.fingerprint(duplicates.normal_form(module(code).functions[0].node))
        for code in (FIRST, SECOND, FIRST.replace("total = 0", '"""Says it."""\n        total = 0'))
    }
    assert len(prints) == 1
    assert prints != {""}


def test_functions_that_call_other_methods_have_different_fingerprints() -> None:
    one, other = (
        duplicates.fingerprint(duplicates.normal_form(module(code).functions[0].node))
        for code in (FIRST, FIRST.replace(".items()", ".values()"))
    )
    assert one != other


def test_small_functions_have_no_fingerprint() -> None:
    assert (
        duplicates.fingerprint(duplicates.normal_form(module("def f(a): return a").functions[0].node)) == ""
    )


def copies(code: str) -> list[tuple[int, str]]:
    found = module(code)
    forms = [duplicates.normal_form(function.node) for function in found.functions]
    return [(oddity.line, oddity.detail) for oddity in duplicates.near_copies(found.functions, forms)]


def test_a_function_that_resembles_an_earlier_one_is_a_near_copy_of_it() -> None:
    changed = SECOND.replace("total // 2", "total // 3 - 1")
    [(line, detail)] = copies(dedent(FIRST) + dedent(changed))
    assert line == 14
    assert detail.startswith("second is 9")
    assert detail.endswith("first of line 1")


def test_functions_that_do_different_things_are_no_copies() -> None:
    other = "def g(a):\n" + "".join(f"    a.m{n}(a, k={n})\n" for n in range(30)) + "    return a\n"
    assert copies(dedent(FIRST) + other) == []


def test_a_branch_that_repeats_an_earlier_one_is_found_across_elif() -> None:
    code = """
        if a:
            b()
            c()
        elif d:
            e()
        else:
            b()
            c()
    """
    assert [oddity.line for oddity in duplicates.duplicated_branches(module(code))] == [7]


def test_single_statements_may_repeat_in_branches() -> None:
    code = "if a:\n b()\nelif c:\n d()\nelse:\n b()"
    assert list(duplicates.duplicated_branches(module(code))) == []


RUN = "".join(f"    {name} = compute(given, {name!r}, [1, 2, 3], key=given.key + 1)\n" for name in "abcdef")


def test_a_run_of_statements_that_stood_there_before_is_told_once() -> None:
    code = f"def f(given):\n{RUN}    return a\ndef g(given):\n{RUN}    return b\n"
    found = list(blocks.repeated_blocks(module(code)))
    assert [(oddity.line, oddity.detail) for oddity in found] == [(10, "4 statements as at line 2")]


def test_statements_that_differ_in_one_constant_are_no_repetition() -> None:
    other = RUN.replace("[1, 2, 3]", "[1, 2, True]")
    code = f"def f(given):\n{RUN}    return a\ndef g(given):\n{other}    return a\n"
    assert list(blocks.repeated_blocks(module(code))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = compute(y)", True),
        ("import os", True),
        ("return x", True),
        ("print(x)", True),
        ("see the note (below)", False),
        ("(maybe)", False),
        ("name", False),
        ("", False),
        ("type: ignore[misc]", False),
        ("ünïcode = (", False),
    ],
)
def test_a_comment_is_code_when_it_is_a_statement_that_does_something(text: str, expected: bool) -> None:
    assert comments.is_code(text) is expected


def test_comments_are_found_by_the_tokenizer_and_not_in_texts() -> None:
    source = b"a = '# TODO: not this'  # TODO: this\n# x = 1\n"
    assert [(oddity.line, oddity.kind) for oddity in comments.odd_comments(source)] == [
        (1, "unfinished work"),
        (2, "code in a comment"),
    ]


def test_a_file_that_the_tokenizer_refuses_has_no_comments() -> None:
    assert comments.comments(b"# first\nx = (\n") in ([], [(1, "first")])
