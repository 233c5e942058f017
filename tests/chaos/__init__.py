"""Chaos: real processes are killed and stopped while messages flow; a checker reads what each of them saw.

``python -m tests.chaos`` runs all of it and writes docs/reliability.md. See checker.py for what is judged.
"""
