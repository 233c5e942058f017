"""A module's syntax tree, sorted once so that every measure and detector can look up what it needs."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TypeVar, cast

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Node = TypeVar("Node", bound=ast.AST)

_BLOCKS = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match,
)  # fmt: skip


@dataclass(slots=True)
class Function:
    """One function and everything in it, functions inside it left out."""

    node: FunctionNode
    #: With the classes and functions around it: ``Reader.read``.
    name: str
    #: Directly in a class, so that its name is an attribute and hides nothing.
    is_method: bool
    nodes: list[ast.AST] = field(default_factory=list)
    nesting: int = 0


@dataclass(slots=True)
class Outline:
    """The nodes of a module by type, and its functions in the order of the source."""

    tree: ast.Module
    by_type: dict[type[ast.AST], list[ast.AST]]
    functions: list[Function]

    def of(self, kind: type[Node]) -> list[Node]:
        """Return all nodes of a type, subtypes left out."""
        return cast("list[Node]", self.by_type.get(kind, []))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands."""

    function: Function | None
    #: Names of classes and functions around it, with a dot at the end.
    prefix: str
    in_class: bool
    depth: int


def outline(tree: ast.Module) -> Outline:
    """Sort the nodes of a module.

    With a stack of its own: generated code nests deeper than Python lets functions call each other.
    """
    by_type: dict[type[ast.AST], list[ast.AST]] = defaultdict(list)
    functions: list[Function] = []
    stack: list[tuple[ast.AST, _Place]] = [(tree, _Place(None, "", False, 0))]
    while stack:
        node, place = stack.pop()
        by_type[type(node)].append(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = Function(node, place.prefix + node.name, place.in_class)
            functions.append(function)
            place = _Place(function, f"{function.name}.", False, 0)
        elif isinstance(node, ast.ClassDef):
            place = _Place(place.function, f"{place.prefix}{node.name}.", True, 0)
        if place.function is not None:
            place.function.nodes.append(node)
        inside = _inside(node, place)
        for child in ast.iter_child_nodes(node):
            stack.append((child, place if _is_elif(child, node) else inside))
    functions.sort(key=lambda function: function.node.lineno)
    return Outline(tree, by_type, functions)


def _inside(node: ast.AST, place: _Place) -> _Place:
    """Return the place of what stands inside a node; note the depth of a block on its function."""
    if place.function is None or not isinstance(node, _BLOCKS):
        return place
    place.function.nesting = max(place.function.nesting, place.depth + 1)
    return _Place(place.function, place.prefix, False, place.depth + 1)


def _is_elif(child: ast.AST, parent: ast.AST) -> bool:
    """Say whether a branch continues its parent: to a reader it is not deeper."""
    return isinstance(child, ast.If) and isinstance(parent, ast.If) and parent.orelse == [child]
