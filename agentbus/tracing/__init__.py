"""OpenTelemetry spans around what the bus does, for those who collect them; nothing for those who do not."""
