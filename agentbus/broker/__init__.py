"""What Redis holds: keys, scripts, connections, inboxes."""
