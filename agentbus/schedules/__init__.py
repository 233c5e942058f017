"""Recurring messages: when they are due, what they say, and the door to them."""
