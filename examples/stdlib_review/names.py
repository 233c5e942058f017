"""Names that nobody uses, and names that hide others."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from examples.stdlib_review.messages import Oddity
from examples.stdlib_review.outline import Function, Outline

_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
#: Calls that look at all local names.
_SEE_ALL = frozenset(("locals", "vars", "eval", "exec", "dir"))


def unused_imports(module: Outline) -> Iterator[Oddity]:
    """Yield imports that nothing in the module mentions; ``import x as x`` is meant for others."""
    used = {node.id for node in module.of(ast.Name) if not isinstance(node.ctx, ast.Store)}
    used |= set(_exported(module))
    imports: list[ast.Import | ast.ImportFrom] = [*module.of(ast.Import), *module.of(ast.ImportFrom)]
    for node in imports:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if name not in used and name != "*" and alias.asname != alias.name:
                yield Oddity("unused import", node.lineno, f"{name} is never used")


def _exported(module: Outline) -> Iterator[str]:
    """Yield the texts in ``__all__``, however it is put together."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value


def shadowed_builtins(module: Outline) -> Iterator[Oddity]:
    """Yield parameters, variables and functions that hide a builtin; methods hide nothing."""
    for argument in module.of(ast.arg):
        if argument.arg in _BUILTINS:
            yield Oddity("shadowed builtin", argument.lineno, f"the parameter {argument.arg}")
    for function in module.functions:
        if function.node.name in _BUILTINS and not function.is_method:
            yield Oddity("shadowed builtin", function.node.lineno, f"the function {function.node.name}")
        for node in function.nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in _BUILTINS:
                yield Oddity("shadowed builtin", node.lineno, f"the variable {node.id} in {function.name}")


def unused_variables(module: Outline) -> Iterator[Oddity]:
    """Yield local variables that are assigned and never read, one of a kind in each function."""
    for function in module.functions:
        read = _read_names(function.node)
        if read is None:
            continue
        for name, line in _assigned(function).items():
            if name not in read and not name.startswith("_"):
                yield Oddity("unused variable", line, f"{name} in {function.name}")


def _read_names(node: ast.AST) -> set[str] | None:
    """Return the names read in a function and in those inside it; None when all may be."""
    read: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            if not isinstance(inner.ctx, ast.Store):
                read.add(inner.id)
        elif isinstance(inner, (ast.Global, ast.Nonlocal)):
            read.update(inner.names)
    return None if read & _SEE_ALL else read


def _assigned(function: Function) -> dict[str, int]:
    """Return name and first line of plain assignments; unpacking often has a part that nobody wants."""
    found: dict[str, int] = {}
    for node in function.nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    line = found.get(target.id, target.lineno)
                    found[target.id] = min(line, target.lineno)
    return found
