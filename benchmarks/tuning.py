"""Every knob of every candidate in one place: used by the candidates, printed by the report."""

from __future__ import annotations

RAW_BATCH = 500
"""Commands or bodies that travel together; 200 to 2,000 made no steady difference."""

AGENTBUS_CONCURRENCY = 64
AGENTBUS_MANY = 1000
"""Bodies in one call of `publish_many`."""
AGENTBUS_ADDRESS_LIMIT = 2_000_000
"""Twice the default, which a backlog of a million would just fill: publishing beside it is measured too."""

FASTSTREAM_RECORDS = 100
TASKIQ_TASKS = 100
STREAQ_CONCURRENCY = 16

JETSTREAM_BATCH = 500
JETSTREAM_IN_FLIGHT = 5000

RABBITMQ_PREFETCH = 300

RAW_GROUPS_AT_ONCE = 25
"""Groups that one pipeline of the raw fan-out asks."""

AT_ONCE = 100
"""Requests that are under way at the same time."""
RECIPIENTS = 50
