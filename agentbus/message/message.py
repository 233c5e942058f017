"""The envelope: one JSON object, and a typed view of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from agentbus.message.policy import Priority

ENVELOPE_VERSION = 1


class Message:
    """One message as its receiver sees it: a read-only view of the JSON envelope.

    The envelope itself stays as it came, so fields this version does not know are kept and passed on.
    Fields that were left out read as their defaults.
    """

    __slots__ = ("_envelope",)

    def __init__(self, envelope: Mapping[str, Any]) -> None:
        self._envelope = envelope

    @property
    def envelope(self) -> Mapping[str, Any]:
        """The whole envelope, unknown fields included."""
        return self._envelope

    @property
    def version(self) -> int:
        """The version of the envelope format."""
        return int(self._envelope.get("version") or ENVELOPE_VERSION)

    @property
    def message_id(self) -> str:
        """The message's UUID, the same in every attempt."""
        return cast("str", self._envelope["message_id"])

    @property
    def message_type(self) -> str:
        """What the message asks for: ``task``, ``question``, or a type of your own."""
        return cast("str", self._envelope["message_type"])

    @property
    def from_agent(self) -> str | None:
        """The name of the sending agent; None when a plain publisher sent it."""
        return self._envelope.get("from_agent")

    @property
    def from_type(self) -> str | None:
        """The type of the sending agent."""
        return self._envelope.get("from_type")

    @property
    def to_agent(self) -> str | None:
        """The name the message was addressed to."""
        return self._envelope.get("to_agent")

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every agent named by a message to several."""
        return tuple(self._envelope.get("recipients") or ())

    @property
    def recipient_mode(self) -> str:
        """``direct``, ``multi`` or ``broadcast``."""
        return cast("str", self._envelope.get("recipient_mode") or "direct")

    @property
    def channel(self) -> str | None:
        """The channel the message was sent on, if it was."""
        return self._envelope.get("channel")

    @property
    def capability(self) -> str | None:
        """The capability the message was addressed to, if it was: whoever has it may take it."""
        return self._envelope.get("capability")

    @property
    def priority(self) -> Priority:
        """One of critical, high, normal, low, background."""
        return cast("Priority", self._envelope.get("priority") or "normal")

    @property
    def timestamp(self) -> datetime | None:
        """When the sender created the message, by the sender's clock; None when it does not say."""
        try:
            moment = datetime.fromisoformat(self._envelope["timestamp"])
        except (KeyError, TypeError, ValueError):
            # Written by hand. Not checked when it is decoded: that would cost each message something.
            return None
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    @property
    def ttl(self) -> float | None:
        """Seconds after acceptance in which the message is worth handling; None = for ever."""
        return self._envelope.get("ttl")

    @property
    def content(self) -> Any:
        """The body's content: a JSON value, or bytes when bytes were sent."""
        body = self._envelope.get("body") or {}
        content: Any = body.get("content")
        return base64.b64decode(content) if body.get("content_encoding") == "base64" else content

    @property
    def context(self) -> Mapping[str, Any]:
        """The body's context: what the sender knew when it wrote the content."""
        return cast("Mapping[str, Any]", (self._envelope.get("body") or {}).get("context") or {})

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The body's metadata."""
        return cast("Mapping[str, Any]", (self._envelope.get("body") or {}).get("metadata") or {})

    @property
    def delivery(self) -> Mapping[str, Any]:
        """The sender's delivery options: require_ack, max_retries, retry_delay, when_exhausted."""
        return cast("Mapping[str, Any]", self._envelope.get("delivery") or {})

    @property
    def correlation_id(self) -> str | None:
        """The conversation this message belongs to."""
        return self._envelope.get("correlation_id")

    @property
    def causation_id(self) -> str | None:
        """The message that made the sender send this one."""
        return self._envelope.get("causation_id")

    @property
    def session_id(self) -> str | None:
        """The sender's session."""
        return self._envelope.get("session_id")

    @property
    def project(self) -> str | None:
        """The project the message belongs to."""
        return self._envelope.get("project")

    @property
    def replayed(self) -> Mapping[str, str] | None:
        """Of a replayed message: ``id`` of the replay, ``of`` (its topic then), ``at``; else None."""
        marker = self._envelope.get("replay")
        return marker if isinstance(marker, dict) else None

    @property
    def reply_to(self) -> str | None:
        """The address that waits for an answer, if any."""
        return self._envelope.get("reply_to")

    @property
    def copy_of(self) -> str | None:
        """The topic of which this is a copy, made for a binding; None for the message itself."""
        return self._envelope.get("copy_of")

    @property
    def hops(self) -> int:
        """How many handlers in a row led to it: 0 for one that was sent outside of a handler."""
        return self._envelope.get("hops") or 0

    @property
    def trace(self) -> Mapping[str, str]:
        """W3C trace context: ``traceparent`` and ``tracestate``."""
        return cast("Mapping[str, str]", self._envelope.get("trace") or {})

    def __repr__(self) -> str:
        sender = self.from_agent or "?"
        recipient = self.to_agent or self.channel or self.capability
        return f"<Message {self.message_type} {self.message_id} from {sender} to {recipient}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self._envelope == other._envelope

    def __hash__(self) -> int:
        return hash(self.message_id)
