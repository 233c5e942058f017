"""What is measured, described without importing it: the runner lives in an environment without the peers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from . import tuning
from .protocol import BOTH, CONSUME, FAN_OUT, LATENCY, PUBLISH, PUBLISHERS, ROUND_TRIP, TO_MANY

if TYPE_CHECKING:
    from .protocol import Candidate

ONE_QUEUE = frozenset({PUBLISH, CONSUME, BOTH, LATENCY})
REDIS_DRIVER = ("redis", "hiredis")


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate, as the report shows it."""

    title: str
    module: str
    class_name: str
    server: str
    """Which server it needs: redis, nats or rabbitmq."""
    packages: tuple[str, ...]
    """What does the work, for the table of versions."""
    setup: str
    """How it was set up, after its own documentation."""
    measures: frozenset[str] = ONE_QUEUE
    most_subscribers: int = 1000
    """Of the fan-out; beyond it the candidate did not come to an end."""

    @property
    def at_home(self) -> bool:
        """Runs in the project's own environment; the others need the peers' one."""
        return self.module in ("raw", "raw_many", "agentbus")


RAW_PUBLISH, RAW_PIPELINE, RAW_CONSUME, RAW_LATENCY = "raw-script", "raw-pipeline", "raw-read", "raw-latency"
AGENTBUS, AGENTBUS_MANY = "agentbus", "agentbus-many"
FASTSTREAM, TASKIQ, STREAQ, RABBITMQ = "faststream", "taskiq", "streaq", "rabbitmq"
JETSTREAM, JETSTREAM_PUSH = "jetstream", "jetstream-push"
RAW_FAN_OUT, RAW_HOPS, NATS_CORE = "raw-fan-out", "raw-hops", "nats-core"

CATALOGUE: dict[str, Entry] = {
    RAW_PUBLISH: Entry(
        "raw: XADD in a batch script",
        *("raw", "RawScript", "redis", REDIS_DRIVER),
        f"EVALSHA with {tuning.RAW_BATCH} bodies a call, one call in flight.",
        frozenset({PUBLISH}),
    ),
    RAW_PIPELINE: Entry(
        "raw: pipelined XADD",
        *("raw", "RawPipeline", "redis", REDIS_DRIVER),
        f"Pipelines of {tuning.RAW_BATCH} XADD commands, no transaction, one pipeline in flight.",
        frozenset({PUBLISH}),
    ),
    RAW_CONSUME: Entry(
        "raw: XREADGROUP + XACK in batches",
        *("raw", "RawRead", "redis", REDIS_DRIVER),
        f"COUNT {tuning.RAW_BATCH}; the XACK of a batch travels with the next XREADGROUP. No handler, no "
        "decoding. With both sides running, the other side writes script batches.",
        frozenset({CONSUME, BOTH}),
    ),
    RAW_LATENCY: Entry(
        "raw: XADD to a parked XREADGROUP",
        *("raw", "RawLatency", "redis", REDIS_DRIVER),
        "One process, two connections; the XACK comes after the clock has stopped.",
        frozenset({LATENCY}),
    ),
    RAW_FAN_OUT: Entry(
        "raw: a group for each subscriber",
        *("raw_many", "RawFanOut", "redis", REDIS_DRIVER),
        f"One connection a process; pipelines that acknowledge and read for {tuning.RAW_GROUPS_AT_ONCE} "
        f"groups, COUNT {tuning.RAW_BATCH}. No handler, no decoding. To many recipients: one pipeline of "
        "XADD.",
        frozenset({FAN_OUT, TO_MANY}),
    ),
    RAW_HOPS: Entry(
        "raw: two hops, XADD to a parked read and back",
        *("raw_many", "RawHops", "redis", REDIS_DRIVER),
        "The question to a parked XREADGROUP, the answer to a parked XREAD; the XACK travels with the "
        "answer. With many at once both read up to 500 a call.",
        frozenset({ROUND_TRIP}),
    ),
    AGENTBUS: Entry(
        "agentbus",
        *("agentbus", "AgentBus", "redis", ("agentbus-redis", *REDIS_DRIVER, "orjson")),
        f"`bus.publish`; `Agent(name, concurrency={tuning.AGENTBUS_CONCURRENCY})` with one async handler. "
        f"An inbox may hold {tuning.AGENTBUS_ADDRESS_LIMIT:,} messages; everything else default: bodies "
        "validated, retries, leases, dead letters, ledger and history on. Fan-out: an agent for each "
        'subscriber with `agent.on("channel.<name>.note")`, `bus.publish_many`. Round trips: `bus.request`. '
        "To many recipients: `bus.send`, with a receipt for each.",
        ONE_QUEUE | {FAN_OUT, ROUND_TRIP, TO_MANY},
    ),
    AGENTBUS_MANY: Entry(
        "agentbus, publish_many",
        *("agentbus", "AgentBusMany", "redis", ("agentbus-redis", *REDIS_DRIVER, "orjson")),
        f"`bus.publish_many` with {tuning.AGENTBUS_MANY:,} bodies a call, one call after the other.",
        frozenset({PUBLISH}),
    ),
    FASTSTREAM: Entry(
        "FastStream, Redis streams",
        *("faststream", "FastStreamRedis", "redis", ("faststream", *REDIS_DRIVER)),
        f"`StreamSub(group=…, consumer=…, max_records={tuning.FASTSTREAM_RECORDS})`, XACK after the handler "
        "(`AckPolicy.REJECT_ON_ERROR`, its default), one worker (its default; with a handler that does "
        f"nothing faster than 10, 100 or 500), no logging, `max_connections={PUBLISHERS}` (with its 100 the "
        "publishing tasks get errors). Fan-out: a group for each subscriber; with 1,000 of them nothing came "
        "to an end within 45 s, so it is measured up to 100. Round trips: `broker.request` to a stream.",
        ONE_QUEUE | {FAN_OUT, ROUND_TRIP, TO_MANY},
        most_subscribers=100,
    ),
    TASKIQ: Entry(
        "taskiq, Redis stream broker",
        *("taskiq", "TaskiqRedis", "redis", ("taskiq", "taskiq-redis", *REDIS_DRIVER)),
        "`RedisStreamBroker`, `ORJSONSerializer`, no result backend, `AcknowledgeType.WHEN_EXECUTED`, "
        f"`max_async_tasks={tuning.TASKIQ_TASKS}` (its default) and as many prefetched.",
    ),
    STREAQ: Entry(
        "streaQ",
        *("streaq", "StreaQ", "redis", ("streaq", "coredis")),
        f"`Worker(concurrency={tuning.STREAQ_CONCURRENCY})` (its default; 32, 100 and 300 were slower), "
        "tasks with `ttl=0` and `silent=True`: no stored result, no log line.",
    ),
    JETSTREAM: Entry(
        "NATS JetStream, pull consumer",
        *("jetstream", "JetStream", "nats", ("nats-py",)),
        "What its documentation recommends for durable work: `js.publish`, durable pull consumer, "
        f"`fetch({tuning.JETSTREAM_BATCH})`, explicit ack after the handler, "
        f"`max_ack_pending={tuning.JETSTREAM_IN_FLIGHT:,}`. File storage, synced in its default interval. "
        "Fan-out: one stream, a durable consumer for each subscriber.",
        ONE_QUEUE | {FAN_OUT, TO_MANY},
    ),
    JETSTREAM_PUSH: Entry(
        "NATS JetStream, push consumer",
        *("jetstream", "JetStreamPush", "nats", ("nats-py",)),
        "The fastest way found: `js.publish_async` with its future awaited, durable push consumer with a "
        "callback (its own examples call push consumers legacy), explicit ack after it, "
        f"`max_ack_pending={tuning.JETSTREAM_IN_FLIGHT:,}`. Same storage.",
        ONE_QUEUE | {FAN_OUT, TO_MANY},
    ),
    NATS_CORE: Entry(
        "NATS core, request and reply",
        *("nats_core", "NatsCore", "nats", ("nats-py",)),
        "`connection.request` to a subscription that responds. Nothing is stored: at most once.",
        frozenset({ROUND_TRIP}),
    ),
    RABBITMQ: Entry(
        "RabbitMQ quorum queue, aio-pika",
        *("rabbitmq", "RabbitQuorum", "rabbitmq", ("aio-pika", "aiormq")),
        f"`x-queue-type: quorum`, persistent messages, publisher confirms, ack after the handler, "
        f"`prefetch_count={tuning.RABBITMQ_PREFETCH}` (the upper end of what its documentation advises).",
    ),
}


def load(name: str) -> type[Candidate]:
    """The class of a candidate; ImportError when its package is not installed here."""
    entry = CATALOGUE[name]
    module = import_module(f"benchmarks.candidates.{entry.module}")
    found: type[Candidate] = getattr(module, entry.class_name)
    return found
