"""Runs of statements that stand in a file more than once."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from examples.stdlib_review.messages import Oddity
from examples.stdlib_review.outline import Outline

#: Shorter runs repeat everywhere: open, read, close.
_RUN = 4
#: Nodes in such a run; four plain assignments are no loss.
_SMALLEST = 45

#: What a statement says, as one number, and how many nodes it has. Equal numbers, equal statements.
_Digest = tuple[int, int]


def repeated_blocks(module: Outline) -> Iterator[Oddity]:
    """Yield runs of statements that stood in the file before, word by word, each once."""
    digests: dict[int, _Digest] = {}
    _digest(module.tree, digests)
    first_lines: dict[tuple[_Digest, ...], int] = {}
    for block in sorted(_blocks(module), key=lambda block: block[0].lineno):
        reported_until = 0
        for start in range(len(block) - _RUN + 1):
            run = tuple(digests[id(statement)] for statement in block[start : start + _RUN])
            if sum(nodes for _, nodes in run) < _SMALLEST:
                continue
            line = block[start].lineno
            first = first_lines.setdefault(run, line)
            if first != line and start >= reported_until:
                # A run of seven is four times a run of four; it is told once.
                reported_until = start + _RUN
                yield Oddity("repeated block", line, f"{_RUN} statements as at line {first}")


def _blocks(module: Outline) -> Iterator[Sequence[ast.stmt]]:
    for nodes in module.by_type.values():
        for node in nodes:
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list) and len(block) >= _RUN and isinstance(block[0], ast.stmt):
                    yield block


def _digest(node: ast.AST, digests: dict[int, _Digest]) -> _Digest:
    """Return the digest of a node, and keep those of the statements in it."""
    parts: list[object] = [type(node)]
    nodes = 1
    for name in node._fields:
        value = getattr(node, name, None)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, ast.AST):
                inner, count = _digest(item, digests)
                parts.append(inner)
                nodes += count
            else:
                # With the type: 1, 1.0 and True would else be one.
                parts.append((type(item), item))
        parts.append(name)
    result = hash(tuple(parts)), nodes
    if isinstance(node, ast.stmt):
        digests[id(node)] = result
    return result
