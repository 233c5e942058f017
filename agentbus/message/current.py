"""The message that the running code handles: what it sends belongs to the same conversation.

Kept in a context variable, so that it reaches whatever a handler calls: functions that know nothing of the
bus's `Context`, tasks that it starts, and the thread that a handler without async runs in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentbus.message.message import Message

#: None outside of handlers.
HANDLED: ContextVar[Message | None] = ContextVar("agentbus_handled", default=None)


@contextmanager
def handling(message: Message | None) -> Iterator[None]:
    """Count what is sent inside as caused by ``message``; None: by nothing."""
    token = HANDLED.set(message)
    try:
        yield
    finally:
        HANDLED.reset(token)
