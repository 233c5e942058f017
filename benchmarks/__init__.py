"""How fast agentbus is, beside its peers and the broker's own ceiling, measured in one run."""
