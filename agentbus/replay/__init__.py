"""The past once more: a range of the history of an address, handed to an agent."""

from agentbus.replay.plan import Replayed, ReplayFilters, ReplayProgress
from agentbus.replay.replay import Replay

__all__ = ["Replay", "ReplayFilters", "ReplayProgress", "Replayed"]
