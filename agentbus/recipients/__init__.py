"""Messages to named agents, and the receipts of what became of them at each."""
