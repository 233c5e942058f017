"""Whether a delivery is handled, and by whom: decisions about one message, without effects."""

from __future__ import annotations

from collections.abc import Callable

from agentbus.broker.inbox_care import FATAL_CRASHES
from agentbus.errors import MalformedMessage
from agentbus.message.address_policy import LOOP_LIMITS, Policy
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.receive.agent import Agent
from agentbus.receive.delivery import Delivery
from agentbus.receive.handlers import Handler
from agentbus.receive.outcome import EXPIRED, PASSED_BY, PROCESSED, RELEASED, Kind, Outcome


class Admission:
    """Decides for one agent."""

    def __init__(
        self, agent: Agent, server_ms: Callable[[], float], policy: Callable[[str, str], Policy]
    ) -> None:
        self._agent = agent
        self._server_ms = server_ms
        self._policy = policy

    def open(self, delivery: Delivery) -> Outcome | None:
        """Decode and guard: return an outcome when the message is not to be handled."""
        try:
            if not delivery.entry.message:
                raise MalformedMessage("message", "is missing: the entry was not written by agentbus")
            delivery.message = decode(delivery.entry.message)
        except MalformedMessage as error:
            delivery.message = Message(
                {"message_id": f"entry-{delivery.entry_id}", "message_type": "unknown"}
            )
            return Outcome(Kind.DEAD, reason="malformed", detail=str(error))
        if delivery.source.is_channel:
            return self._open_from_channel(delivery)
        if "hops" in delivery.message.envelope and (came_round := self._came_round(delivery)):
            return came_round
        if delivery.state:
            expires = delivery.state.get("expires")
            if isinstance(expires, (int, float)) and expires <= self._server_ms():
                return EXPIRED
        return None

    def _came_round(self, delivery: Delivery) -> Outcome | None:
        """Publishing refuses it before; this is for what came by another door, by hand for example."""
        if delivery.message.channel is not None:
            # By way of a channel, whose own limit it was measured by.
            return None
        hops = delivery.message.hops
        policy = self._policy(delivery.address, delivery.message.message_type)
        most = LOOP_LIMITS[0] if policy.max_hops is None else policy.max_hops
        if not most or hops <= most:
            return None
        return Outcome(Kind.DEAD, reason="loop", detail=f"{hops} handlers in a row led to it; {most} may")

    def _open_from_channel(self, delivery: Delivery) -> Outcome | None:
        """Pass by what is not for this agent; guard against what expired and what kills its owners.

        An inbox does the latter two where the message lies. The log is everybody's: nobody ends it there.
        """
        message = delivery.message
        handler = self._agent.channel_handler(delivery.address, message.message_type)
        if handler is None and delivery.address not in self._agent.following:
            # Unsubscribed a moment ago: whoever subscribes again goes on with this one.
            return RELEASED
        # With recipients it stands here for the record: those who are named have it in their inboxes.
        if message.recipients or self._is_own(message, handler):
            # Not asked here, so nobody waits for an answer.
            delivery.answered = True
            return PROCESSED
        if handler is None:
            return PASSED_BY
        ttl = message.ttl
        if ttl is not None and delivery.entered_ms + ttl * 1000 <= self._server_ms():
            return EXPIRED
        if delivery.state.get("crashes", 0) >= FATAL_CRASHES:
            return Outcome(Kind.DEAD, reason="crashed", detail="its owners died while running it")
        return None

    def handler_of(self, delivery: Delivery) -> Handler | None:
        """Return who handles a delivery; what came from a channel by way of the inbox is that channel's."""
        message = delivery.message
        if delivery.source.is_channel:
            return self._agent.channel_handler(delivery.address, message.message_type)
        if message.channel is not None and not message.recipients:
            found = self._agent.channel_handler(message.channel, message.message_type)
            if message.replayed is not None and self._agent.reads(message.channel):
                return None if found is None or self._is_own(message, found) else found
            if found is not None:
                return found
        return self._agent.handler_for(message.message_type)

    def _is_own(self, message: Message, handler: Handler | None) -> bool:
        """Return whether it is the agent's own, and its handler has not asked for those."""
        return message.from_agent == self._agent.name and not (handler and handler.include_own)
