"""The way back: agents, deliveries, leases, housekeeping."""
