"""One file, from its bytes to its review. Pure: nothing here knows of the bus."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator

from examples.stdlib_review import blocks, comments, duplicates, flow, metrics, names, statements
from examples.stdlib_review.messages import FileReview, Oddity
from examples.stdlib_review.outline import Outline, outline

Detector = Callable[[Outline], Iterator[Oddity]]

DETECTORS: tuple[Detector, ...] = (
    statements.bare_excepts,
    statements.swallowed_exceptions,
    statements.mutable_defaults,
    statements.unreachable_code,
    statements.deep_nesting,
    statements.many_parameters,
    statements.odd_comparisons,
    statements.asserted_tuples,
    statements.duplicate_keys,
    statements.self_assignments,
    statements.returns_in_finally,
    names.unused_imports,
    names.shadowed_builtins,
    names.unused_variables,
    flow.unbound_variables,
    duplicates.duplicated_branches,
    blocks.repeated_blocks,
)


def review_file(name: str, source: bytes) -> FileReview:
    """Measure and examine one file. A file that is not Python has that as its one oddity."""
    lines = source.count(b"\n") + (not source.endswith(b"\n") and bool(source))
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        line = getattr(problem, "lineno", None) or 1
        return FileReview(name, lines, [], [Oddity("does not parse", line, _first_line(problem))])
    try:
        return _examine(name, lines, source, outline(tree))
    except RecursionError:
        return FileReview(name, lines, [], [Oddity("too deep to examine", 1, "expressions in expressions")])


def _examine(name: str, lines: int, source: bytes, module: Outline) -> FileReview:
    forms = [duplicates.normal_form(function.node) for function in module.functions]
    functions = [
        metrics.measure(function, form) for function, form in zip(module.functions, forms, strict=True)
    ]
    oddities = [oddity for detector in DETECTORS for oddity in detector(module)]
    oddities += duplicates.near_copies(module.functions, forms)
    oddities += comments.odd_comments(source)
    oddities.sort(key=lambda oddity: (oddity.line, oddity.kind))
    return FileReview(name, lines, functions, oddities)


def _parse(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        # The library's own tests are full of odd escapes and comparisons; they are not ours to report.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _first_line(problem: BaseException) -> str:
    text = problem.msg if isinstance(problem, SyntaxError) else str(problem)
    return (text or type(problem).__name__).splitlines()[0]
