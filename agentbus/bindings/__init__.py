"""Durable wildcards: who wants copies of what, known to every publisher, and the copies themselves."""
