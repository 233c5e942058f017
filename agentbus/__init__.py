"""agentbus: the message bus that AI-agent processes use to work together."""
