"""The fleet: which agents there are, what they can do, and which processes serve them."""
