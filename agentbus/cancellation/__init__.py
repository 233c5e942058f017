"""Taking back what nobody has begun."""

from agentbus.cancellation.cancellation import Cancellation, Cancelled, CancelledPlace

__all__ = ["Cancellation", "Cancelled", "CancelledPlace"]
