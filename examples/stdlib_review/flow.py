"""Variables that may be read before anything was assigned to them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from examples.stdlib_review.messages import Oddity
from examples.stdlib_review.outline import Function, Outline

#: Names that are bound at a point of the function; None where the point is never reached.
_Bound = frozenset[str] | None
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def unbound_variables(module: Outline) -> Iterator[Oddity]:
    """Yield variables that on some way through their function are read without a value, each once.

    A way counts even if the conditions on it exclude each other: the reader has to prove that, too.
    """
    for function in module.functions:
        flow = _Flow(_locals(function))
        flow.block(function.node.body, frozenset())
        for name, line in sorted(flow.unbound.items(), key=lambda item: item[1]):
            yield Oddity("maybe unbound", line, f"{name} in {function.name} may have no value yet")


def _locals(function: Function) -> frozenset[str]:
    """Return the names that plain statements of the function bind; parameters always have a value."""
    arguments = function.node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    given += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    bound: set[str] = set()
    elsewhere = {argument.arg for argument in given}
    for node in function.nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
        elif isinstance(node, ast.comprehension):
            # Its target is a variable of its own; the same name outside is too rare to follow.
            elsewhere.update(_stored(node.target))
    return frozenset(bound - elsewhere)


def _stored(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id


def _merge(ways: Iterable[_Bound]) -> _Bound:
    """Return what is bound after several ways meet: what is bound on all that get there."""
    reached = [way for way in ways if way is not None]
    return frozenset.intersection(*reached) if reached else None


class _Flow:
    """Follows all ways through one function."""

    def __init__(self, variables: frozenset[str]) -> None:
        self._variables = variables
        #: First line at which each variable may be read without a value.
        self.unbound: dict[str, int] = {}
        #: What was bound at each ``break``, by loop, innermost last.
        self._breaks: list[list[_Bound]] = []

    def block(self, statements: Sequence[ast.stmt], bound: _Bound) -> _Bound:
        """Follow statements one after the other."""
        for statement in statements:
            if bound is None:
                return None
            bound = self._statement(statement, bound)
        return bound

    def _statement(self, node: ast.stmt, bound: frozenset[str]) -> _Bound:
        match node:
            case ast.If():
                bound = self._read(node.test, bound)
                return _merge((self.block(node.body, bound), self.block(node.orelse, bound)))
            case ast.While() | ast.For() | ast.AsyncFor():
                return self._loop(node, bound)
            case ast.Try() | ast.TryStar():
                return self._try(node, bound)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    bound = self._read(item, bound)
                return self.block(node.body, bound)
            case ast.Match():
                return self._match(node, bound)
            case ast.Return() | ast.Raise() | ast.Continue():
                self._read(node, bound)
                return None
            case ast.Break():
                self._breaks[-1].append(bound)
                return None
        return self._read(node, bound)

    def _loop(self, node: ast.While | ast.For | ast.AsyncFor, bound: frozenset[str]) -> _Bound:
        endless = False
        if isinstance(node, ast.While):
            bound = inside = self._read(node.test, bound)
            endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
        else:
            bound = self._read(node.iter, bound)
            inside = self._read(node.target, bound)
        self._breaks.append([])
        self.block(node.body, inside)
        breaks = self._breaks.pop()
        # The body may not have run at all, so what it binds does not count afterwards.
        finished = None if endless else self.block(node.orelse, bound)
        return _merge((finished, *breaks))

    def _try(self, node: ast.Try | ast.TryStar, bound: frozenset[str]) -> _Bound:
        # An error can come before the first statement has bound anything.
        ways = [self.block(node.orelse, self.block(node.body, bound))]
        for handler in node.handlers:
            caught = self._read(handler.type, bound) if handler.type else bound
            named = {handler.name} if handler.name else set()
            after = self.block(handler.body, caught | named)
            ways.append(None if after is None else after - named)
        before_finally, merged = bound, _merge(ways)
        finished = self.block(node.finalbody, before_finally)
        return None if merged is None or finished is None else merged | finished

    def _match(self, node: ast.Match, bound: frozenset[str]) -> _Bound:
        bound = self._read(node.subject, bound)
        ways: list[_Bound] = []
        falls_through = True
        for case in node.cases:
            inside = self._read(case.pattern, bound)
            ways.append(self.block(case.body, self._read(case.guard, inside) if case.guard else inside))
            wildcard = isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
            falls_through = falls_through and not (wildcard and case.guard is None)
        return _merge([*ways, bound] if falls_through else ways)

    def _read(self, root: ast.AST, bound: frozenset[str]) -> frozenset[str]:
        """Check the names that a statement or expression reads, and return what is bound after it."""
        stored: set[str] = set()
        removed: set[str] = set()
        read: dict[str, int] = {}
        if isinstance(root, ast.AugAssign) and isinstance(root.target, ast.Name):
            # The tree calls it a store; it needs the old value all the same.
            read[root.target.id] = root.lineno
        stack: list[ast.AST] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Store):
                    stored.add(node.id)
                else:
                    read.setdefault(node.id, node.lineno)
                if isinstance(node.ctx, ast.Del):
                    removed.add(node.id)
            elif isinstance(node, ast.NamedExpr):
                bound = bound | {node.target.id}
                stack.append(node.value)
            elif not isinstance(node, (*_SCOPES, *_COMPREHENSIONS)):
                # Functions and comprehensions inside have variables, and a time to run, of their own.
                stack.extend(ast.iter_child_nodes(node))
        for name in (read.keys() & self._variables) - bound:
            self.unbound.setdefault(name, read[name])
        return (bound | stored) - removed
