"""Code that says the same thing twice: functions by their normal form, branches word by word."""

from __future__ import annotations

import ast
import difflib
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from zlib import crc32

from examples.stdlib_review.messages import Oddity
from examples.stdlib_review.outline import Function, Outline

#: A tree as numbers, in the order of the source: node types and the names of attributes. What things are
#: called and which constants they use is left out, so that copies with other names look the same.
NormalForm = Sequence[int]

#: Smaller functions resemble each other by chance: accessors, delegation, tests of one assertion.
_SMALLEST = 50
#: Nodes in a row that are compared as one.
_SHINGLE = 6
#: The share of common shingles below which two functions are not worth comparing node by node.
_PROMISING = 0.5
#: How alike, node by node, two functions are that count as near copies.
_ALIKE = 0.9

_TYPE_NUMBERS: dict[type[ast.AST], int] = {
    kind: number
    for number, kind in enumerate(
        sorted(
            (kind for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.AST)),
            key=lambda kind: kind.__name__,
        )
    )
}


def normal_form(root: ast.AST) -> NormalForm:
    """Return the normal form of a statement; of a function without its docstring and decorators."""
    numbers = array("L")
    stack: list[ast.AST] = list(reversed(_meaningful(root)))
    while stack:
        node = stack.pop()
        numbers.append(_TYPE_NUMBERS[type(node)])
        if isinstance(node, ast.Attribute):
            numbers.append(crc32(node.attr.encode("utf-8", "surrogatepass")))
        children = list(ast.iter_child_nodes(node))
        children.reverse()
        stack += children
    return numbers


def _meaningful(root: ast.AST) -> list[ast.AST]:
    if not isinstance(root, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [root]
    has_docstring = ast.get_docstring(root, clean=False) is not None
    return [root.args, *root.body[1 if has_docstring else 0 :]]


def fingerprint(form: NormalForm) -> str:
    """Return a short digest that is equal for equal forms, in all processes; empty for small functions."""
    if len(form) < _SMALLEST:
        return ""
    return hashlib.blake2b(array("L", form).tobytes(), digest_size=8).hexdigest()


def near_copies(functions: Sequence[Function], forms: Sequence[NormalForm]) -> Iterator[Oddity]:
    """Yield each function that resembles an earlier one of the same module."""
    pieces = [
        (function, form, _shingles(form))
        for function, form in zip(functions, forms, strict=True)
        if len(form) >= _SMALLEST
    ]
    for position, (function, form, shingles) in enumerate(pieces):
        for earlier, other_form, other_shingles in pieces[:position]:
            if not _promising(shingles, other_shingles):
                continue
            share = likeness(form, other_form)
            if share >= _ALIKE:
                detail = f"{function.name} is {share:.0%} {earlier.name} of line {earlier.node.lineno}"
                yield Oddity("near copy", function.node.lineno, detail)
                break


def likeness(left: NormalForm, right: NormalForm) -> float:
    """Return the share of nodes that stand in both in the same order: 1 for copies."""
    return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()


def _shingles(form: NormalForm) -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(form[start : start + _SHINGLE]) for start in range(len(form) - _SHINGLE + 1))


def _promising(left: frozenset[tuple[int, ...]], right: frozenset[tuple[int, ...]]) -> bool:
    smaller, larger = sorted((len(left), len(right)))
    # The share cannot be reached when one is that much larger; many pairs end here.
    if smaller < _PROMISING * larger:
        return False
    common = len(left & right)
    return common >= _PROMISING * (smaller + larger - common)


def duplicated_branches(module: Outline) -> Iterator[Oddity]:
    """Yield branches of one ``if`` that do the same as an earlier one; a single statement may."""
    continued = {id(node.orelse[0]) for node in module.of(ast.If) if len(node.orelse) == 1}
    for node in module.of(ast.If):
        if id(node) in continued:
            continue
        seen: dict[str, int] = {}
        for branch in _branches(node):
            if len(branch) < 2:
                continue
            words = "\n".join(ast.dump(statement) for statement in branch)
            first = seen.setdefault(words, branch[0].lineno)
            if first != branch[0].lineno:
                yield Oddity("duplicated branch", branch[0].lineno, f"the same as at line {first}")


def _branches(node: ast.If) -> Iterator[list[ast.stmt]]:
    """Yield the bodies of ``if``, each ``elif``, and ``else``."""
    while True:
        yield node.body
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            node = node.orelse[0]
            continue
        if node.orelse:
            yield node.orelse
        return
