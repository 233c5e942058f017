"""What travels: envelopes, topics, bodies, durations. Pure: no I/O."""
