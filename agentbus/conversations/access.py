"""Who may read a conversation through this library: its two agents.

Order, not security: whoever may connect to the broker can read every key of it.
"""

from __future__ import annotations

from agentbus.errors import ConfigurationError, NotYourConversation
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


def own_conversation(agent: str, other_or_name: str) -> str:
    """Return the conversation of an agent with another one, given by that one's name or by its own."""
    if not is_conversation(other_or_name):
        return conversation_of(agent, other_or_name)
    name = parse_conversation(other_or_name)
    check_may_read(agent, name)
    return name
