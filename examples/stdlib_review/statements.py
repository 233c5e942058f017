"""Statements that seldom mean what they say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from examples.stdlib_review.messages import Oddity
from examples.stdlib_review.outline import Outline

_DEEPEST = 5
_MOST_PARAMETERS = 10
_ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_MUTABLE_CALLS = ("list", "dict", "set", "bytearray")
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def bare_excepts(module: Outline) -> Iterator[Oddity]:
    """Yield handlers that catch everything, an interrupt by the user included."""
    for node in module.of(ast.ExceptHandler):
        if node.type is None and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            yield Oddity("bare except", node.lineno, "catches everything and does not raise it again")


def swallowed_exceptions(module: Outline) -> Iterator[Oddity]:
    """Yield handlers that drop any exception without a word."""
    for node in module.of(ast.ExceptHandler):
        broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
        if (broad or node.type is None) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
            yield Oddity("swallowed exception", node.lineno, "any error is dropped without a word")


def mutable_defaults(module: Outline) -> Iterator[Oddity]:
    """Yield default values that all calls share and can change."""
    for arguments in module.of(ast.arguments):
        for value in (*arguments.defaults, *arguments.kw_defaults):
            if value is not None and _is_mutable(value):
                yield Oddity("mutable default", value.lineno, f"{ast.unparse(value)} is shared by all calls")


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in _MUTABLE_CALLS
    return isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))


def unreachable_code(module: Outline) -> Iterator[Oddity]:
    """Yield what follows a return, raise, continue or break in the same block."""
    for nodes in module.by_type.values():
        for node in nodes:
            for block in _blocks(node):
                for statement, following in pairwise(block):
                    if isinstance(statement, _ENDS):
                        after = type(statement).__name__.lower()
                        yield Oddity("unreachable code", following.lineno, f"nothing runs after {after}")
                        break


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield block


def deep_nesting(module: Outline) -> Iterator[Oddity]:
    """Yield functions with blocks in blocks in blocks."""
    for function in module.functions:
        if function.nesting > _DEEPEST:
            detail = f"{function.name} goes {function.nesting} blocks deep"
            yield Oddity("deep nesting", function.node.lineno, detail)


def many_parameters(module: Outline) -> Iterator[Oddity]:
    """Yield functions that nobody can call from memory."""
    for function in module.functions:
        arguments = function.node.args
        count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        if count > _MOST_PARAMETERS:
            yield Oddity("many parameters", function.node.lineno, f"{function.name} takes {count}")


def odd_comparisons(module: Outline) -> Iterator[Oddity]:
    """Yield ``== None`` and ``is`` with a literal: each of them means the other."""
    for node in module.of(ast.Compare):
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            if isinstance(operator, (ast.Eq, ast.NotEq)) and _is_none(right):
                yield Oddity("comparison with None", node.lineno, ast.unparse(node)[:80])
            elif isinstance(operator, (ast.Is, ast.IsNot)) and (_is_literal(left) or _is_literal(right)):
                yield Oddity("identity of a literal", node.lineno, ast.unparse(node)[:80])


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes, int, float)) and (
        not isinstance(node.value, bool)
    )  # fmt: skip


def asserted_tuples(module: Outline) -> Iterator[Oddity]:
    """Yield assertions that always hold, because a filled tuple is true."""
    for node in module.of(ast.Assert):
        if isinstance(node.test, ast.Tuple) and node.test.elts:
            yield Oddity("asserted tuple", node.lineno, "a filled tuple is always true")


def duplicate_keys(module: Outline) -> Iterator[Oddity]:
    """Yield keys that a dict display names twice: the first value is lost."""
    for node in module.of(ast.Dict):
        seen: set[tuple[type, object]] = set()
        for key in node.keys:
            if not isinstance(key, ast.Constant):
                continue
            # With the type: 1, 1.0 and True are equal, and mixing them is usually meant.
            identity = (type(key.value), key.value)
            if identity in seen:
                yield Oddity("duplicate key", key.lineno, f"{key.value!r} was there before"[:80])
            seen.add(identity)


def self_assignments(module: Outline) -> Iterator[Oddity]:
    """Yield names that are assigned to themselves."""
    for node in module.of(ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Name) and target.id == node.value.id:
            yield Oddity("self assignment", node.lineno, f"{target.id} = {target.id}")


def returns_in_finally(module: Outline) -> Iterator[Oddity]:
    """Yield jumps out of ``finally``: they drop the exception on its way."""
    tries: list[ast.Try | ast.TryStar] = [*module.of(ast.Try), *module.of(ast.TryStar)]
    for node in tries:
        for statement in node.finalbody:
            for jump in _jumps(statement, in_loop=False):
                yield Oddity("jump out of finally", jump.lineno, "drops the exception on its way")


def _jumps(node: ast.AST, in_loop: bool) -> Iterator[ast.stmt]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    if isinstance(node, ast.Return) or (isinstance(node, (ast.Break, ast.Continue)) and not in_loop):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _jumps(child, in_loop or isinstance(node, _LOOPS))
