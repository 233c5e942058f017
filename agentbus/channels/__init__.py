"""Channels for those who look after them: who reads, how far, and who has read what."""

from agentbus.channels.channels import Channels

__all__ = ["Channels"]
