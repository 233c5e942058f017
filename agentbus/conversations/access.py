"""Who may read a conversation through this library: its two agents.

Order, not security: whoever may connect to the broker can read every key of it.
"""

from __future__ import annotations

from agentbus.errors import ConfigurationError, NotYourConversation
from agentbus.message.message import Message
from agentbus.message.topics import conversation_of, is_conversation, parse_conversation, parties_of


def check_identity(agent: str | None) -> str:
    """Return the name a bus acts under; raises `ConfigurationError` when it has none."""
    if agent is None:
        raise ConfigurationError(
            'direct messages need a name to act under: Bus(agent="planner"), or AGENTBUS_AGENT'
        )
    return agent


def check_may_read(agent: str | None, address: str) -> None:
    """Raise `NotYourConversation` for a conversation of other agents; any other address may be read."""
    if may_read(agent, address):
        return
    who = f"{agent} is" if agent is not None else "this bus has no agent name, and so is"
    parties = " and ".join(parties_of(address))
    raise NotYourConversation(f"{address} is between {parties}; {who} neither of them")


def may_read(agent: str | None, address: str) -> bool:
    """Whether an address that was checked is no conversation, or one that an agent takes part in."""
    return not is_conversation(address) or agent in parties_of(address)


def may_see(agent: str | None, message: Message) -> bool:
    """Whether a message is no direct one, or one that an agent has sent or was sent."""
    channel = message.channel
    return channel is None or not is_conversation(channel) or agent in channel.split(":")


def check_may_see(agent: str | None, message: Message) -> None:
    """Raise `NotYourConversation` for a direct message of other agents."""
    if not may_see(agent, message):
        who = agent or "this bus, which has no agent name,"
        raise NotYourConversation(
            f"{message.message_id} is a direct message of {message.channel}; {who} is neither of the two"
        )


def own_conversation(agent: str, other_or_name: str) -> str:
    """Return the conversation of an agent with another one, given by that one's name or by its own."""
    if not is_conversation(other_or_name):
        return conversation_of(agent, other_or_name)
    name = parse_conversation(other_or_name)
    check_may_read(agent, name)
    return name
