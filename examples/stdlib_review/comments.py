"""What comments tell: unfinished work, and code that somebody did not dare to delete."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from examples.stdlib_review.messages import Oddity

_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
#: Cheap to ask first: code has one of these, prose seldom.
_CODE_MARKS = re.compile(r"[=()\[\]]|^(import|from|return|raise|del|assert|yield)\b")
_CODE = (
    ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Return, ast.Raise, ast.Delete, ast.Assert,
)  # fmt: skip


def comments(source: bytes) -> list[tuple[int, str]]:
    """Return line and text of each comment, without the ``#``.

    The tokenizer is stricter than the parser here and there; what it cannot read it has no comments of.
    """
    found = []
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.COMMENT:
                found.append((token.start[0], token.string.lstrip("#").strip()))
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def odd_comments(source: bytes) -> Iterator[Oddity]:
    """Yield comments that announce work, and comments that are code."""
    for line, text in comments(source):
        if _UNFINISHED.search(text):
            yield Oddity("unfinished work", line, text[:80])
        elif is_code(text):
            yield Oddity("code in a comment", line, text[:80])


def is_code(text: str) -> bool:
    """Say whether a comment is a statement: one that does something, not a lone word or number."""
    if not _CODE_MARKS.search(text):
        return False
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not body:
        return False
    statement = body[0]
    if isinstance(statement, ast.AnnAssign):
        # "note: this" is prose, and "type: ignore" is for the type checker.
        return statement.value is not None
    return isinstance(statement, _CODE) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    )
