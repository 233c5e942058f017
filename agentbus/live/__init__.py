"""Live events: sent and watched, at most once, kept nowhere."""
