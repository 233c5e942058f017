"""How long, how branched and how deep a function is."""

from __future__ import annotations

import ast
import math
from collections import Counter

from examples.stdlib_review.duplicates import NormalForm, fingerprint
from examples.stdlib_review.messages import FunctionFacts
from examples.stdlib_review.outline import Function

_BRANCHES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case,
)  # fmt: skip


def measure(function: Function, form: NormalForm) -> FunctionFacts:
    """Return the measures of one function."""
    lines, ways = length(function.node), complexity(function)
    return FunctionFacts(
        name=function.name,
        line=function.node.lineno,
        length=lines,
        complexity=ways,
        maintainability=maintainability(volume(function), ways, lines),
        nesting=function.nesting,
        fingerprint=fingerprint(form),
    )


def length(node: ast.stmt) -> int:
    """Return the number of lines of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def complexity(function: Function) -> int:
    """Return McCabe's number: one way through, and one more for each decision."""
    return 1 + sum(_decisions(node) for node in function.nodes)


def _decisions(node: ast.AST) -> int:
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def volume(function: Function) -> float:
    """Return Halstead's volume: how many bits it takes to say what the function says.

    Operators are what acts (statements, operators, calls), operands what is acted on (names, constants).
    """
    operators: Counter[str] = Counter()
    operands: Counter[object] = Counter()
    for node in function.nodes:
        if isinstance(node, ast.Name):
            operands[node.id] += 1
        elif isinstance(node, ast.Constant):
            operands[type(node.value), node.value] += 1
        elif isinstance(node, ast.arg):
            operands[node.arg] += 1
        elif isinstance(node, ast.Attribute):
            operators["."] += 1
            operands[node.attr] += 1
        elif not isinstance(node, ast.expr_context):
            operators[type(node).__name__] += 1
    vocabulary = len(operators) + len(operands)
    return (operators.total() + operands.total()) * math.log2(max(vocabulary, 2))


def maintainability(halstead_volume: float, ways: int, lines: int) -> float:
    """Return the maintainability index: 100 is easy to change, 0 is hard."""
    index = 171 - 5.2 * math.log(max(halstead_volume, 1.0)) - 0.23 * ways - 16.2 * math.log(max(lines, 1))
    return round(max(0.0, index * 100 / 171), 1)
