"""The way out: publisher, routing, requests."""
