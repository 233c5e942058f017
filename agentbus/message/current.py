"""The message that the running code handles: what it sends belongs to the same conversation.

Kept in a context variable, so that it reaches whatever a handler calls: functions that know nothing of the
bus's `Context`, tasks that it starts, and the thread that a handler without async runs in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentbus.message.message import Message

#: The message and the name of the agent that handles it; None outside of handlers.
HANDLED: ContextVar[tuple[Message, str] | None] = ContextVar("agentbus_handled", default=None)


def current_message() -> Message | None:
    """Return the message that is handled; None outside of handlers."""
    handled = HANDLED.get()
    return None if handled is None else handled[0]


@contextmanager
def handling(message: Message | None, agent: str = "") -> Iterator[None]:
    """Count what is sent inside as caused by ``message``; None: by nothing."""
    token = HANDLED.set(None if message is None else (message, agent))
    try:
        yield
    finally:
        HANDLED.reset(token)
