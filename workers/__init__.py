"""The services with the clock: due messages, recovery, dead letters, schedules, retention, archive, status.

``python -m workers`` runs all of them, any number of such processes side by side, with no leader.
"""
