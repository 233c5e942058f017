"""How many subscribers, how many messages."""

from __future__ import annotations

SUBSCRIBERS = (1, 10, 100, 1000)
SUBSCRIBER_PROCESSES = 2
LARGEST = SUBSCRIBERS[-1]
TO_LARGEST = 100
"""Messages that the largest crowd of agentbus gets: its goal is in seconds for this many."""
