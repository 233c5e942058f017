"""Findings about the server: is it reachable, safe and healthy, and what does it promise."""

from __future__ import annotations

from collections.abc import Iterator

from agentbus.broker.connection import Broker
from agentbus.broker.durability import ServerDurability, probe
from agentbus.broker.inspection.health import Latency, ServerHealth, measure_latency, read_health
from agentbus.broker.server import SAFE_POLICY, ServerFacts, read_facts
from agentbus.cli.findings import BAD, OK_, WARN, Finding
from agentbus.errors import BrokerRefused
from agentbus.message.durations import readable

_OLDEST = (7, 0)
#: A round trip above this, in ms, is felt by every request.
_SLOW_MS = 20.0
#: The first Valkey seen to cut a torn file before a step that is not whole; no Redis is known to.
_CUTS_WELL = (9, 1)
#: Clock differences below this, in ms, are nobody's business.
_SKEW_MS = 1_000.0
#: A fork stops the server; beats and publishes wait.
_LONG_FORK_US = 200_000
_FULL, _BAD_FULL = 0.75, 0.9


async def examine_server(broker: Broker, prefix: str, place: str) -> list[Finding]:
    """Examine one server; raises `BrokerUnavailable` when it does not answer."""
    latency = await measure_latency(broker)
    try:
        facts, health = await read_facts(broker), await read_health(broker)
    except BrokerRefused as error:
        advice = "allow INFO to this user, so that agentbus can see whether messages are safe here"
        return [
            _reach(latency, place),
            Finding("server", WARN, f"it does not tell about itself: {error}", advice),
        ]
    findings = [_reach(latency, place), _version(facts), _eviction(facts), _memory(facts)]
    findings += [
        _scripts(health),
        *_persistence(health),
        *_torn_file(facts, health),
        _clock(latency),
        *_clients(health),
    ]
    try:
        findings += _durability(await probe(broker, prefix), health)
    except BrokerRefused as error:
        findings.append(Finding("durability", WARN, f"cannot be found out: {error}"))
    return findings


def _reach(latency: Latency, place: str) -> Finding:
    detail = f"{place} answers in {latency.median_ms:.2f} ms"
    if latency.median_ms > _SLOW_MS:
        return Finding(
            "reachable", WARN, detail, "every request takes at least this; bring the broker nearer"
        )
    return Finding("reachable", OK_, detail)


def _version(facts: ServerFacts) -> Finding:
    detail = f"{facts.kind} {facts.version}"
    numbers = _numbers(facts)
    if numbers and numbers < _OLDEST:
        return Finding("version", BAD, detail, "scripts need Redis 7.0 or Valkey 8: upgrade the server")
    return Finding("version", OK_, detail)


def _numbers(facts: ServerFacts) -> tuple[int, ...]:
    return tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())


def _eviction(facts: ServerFacts) -> Finding:
    if facts.eviction_policy == SAFE_POLICY:
        return Finding("eviction", OK_, "noeviction: a full server refuses new messages and deletes none")
    if facts.eviction_policy is None:
        return Finding("eviction", WARN, "unknown", f"make sure that maxmemory-policy is {SAFE_POLICY}")
    return Finding(
        "eviction", BAD, f"{facts.eviction_policy}: a full server deletes whole inboxes",
        f"CONFIG SET maxmemory-policy {SAFE_POLICY}, and the same in its configuration file",
    )  # fmt: skip


def _memory(facts: ServerFacts) -> Finding:
    used = f"{facts.used_memory / 1024**2:,.1f} MiB used"
    if not facts.max_memory:
        return Finding("memory", OK_, f"{used}, no limit set")
    share = facts.used_memory / facts.max_memory
    detail = f"{used} of {facts.max_memory / 1024**2:,.1f} MiB, {share:.0%}"
    advice = "publishers are refused when it is full; agents go on. Raise maxmemory, or add agents"
    if share >= _BAD_FULL:
        return Finding("memory", BAD, detail, advice)
    return Finding("memory", WARN, detail, advice) if share >= _FULL else Finding("memory", OK_, detail)


def _scripts(health: ServerHealth) -> Finding:
    if health.script_problem is None:
        return Finding("scripts", OK_, "Lua scripts run")
    return Finding(
        "scripts", BAD, f"the server does not run scripts: {health.script_problem}",
        "allow EVAL and EVALSHA to this user; on Valkey 9.1 or later load its Lua module",
    )  # fmt: skip


def _persistence(health: ServerHealth) -> Iterator[Finding]:
    information = health.information
    if information.get("aof_enabled") == "1":
        yield Finding("persistence", OK_, "append-only file")
    else:
        yield Finding(
            "persistence", WARN, "no append-only file: a server that ends takes messages with it",
            "CONFIG SET appendonly yes, and the same in its configuration file",
        )  # fmt: skip
    for field, what in (
        ("aof_last_write_status", "the last write of the append-only file"),
        ("aof_last_bgrewrite_status", "the last rewrite of the append-only file"),
        ("rdb_last_bgsave_status", "the last snapshot"),
    ):
        if information.get(field, "ok") != "ok":
            yield Finding(
                "persistence", BAD, f"{what} failed ({information[field]})",
                "see the server's log; usually the disk is full or memory is too small for a fork",
            )  # fmt: skip
    fork = health.number("latest_fork_usec")
    if fork > _LONG_FORK_US:
        yield Finding(
            "forks", WARN, f"the last fork stopped the server for {readable(fork / 1e6)}",
            "keep the lease of agents well above this; switch off transparent huge pages",
        )  # fmt: skip
    if health.number("aof_delayed_fsync"):
        yield Finding(
            "disk", WARN, f"{health.number('aof_delayed_fsync'):,} writes waited for a slow disk",
            "a faster disk, or one of its own for the append-only file",
        )  # fmt: skip


def _torn_file(facts: ServerFacts, health: ServerHealth) -> Iterator[Finding]:
    cuts_well = facts.kind == "Valkey" and _numbers(facts) >= _CUTS_WELL
    if health.information.get("aof_enabled") == "1" and health.loads_torn_file and not cuts_well:
        yield Finding(
            "torn file", WARN, "killed in mid-write, it may carry out half a step two starts later",
            "aof-load-truncated no in its configuration file; where it then refuses to start, "
            "redis-check-aof --fix on the manifest of its append-only file",
        )  # fmt: skip


def _clock(latency: Latency) -> Finding:
    skew = latency.skew_ms
    difference = f"{readable(abs(skew) / 1000)} {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) <= _SKEW_MS + latency.skew_error_ms:
        return Finding("clock", OK_, f"the server's is {difference}")
    return Finding(
        "clock", WARN, f"the server's is {difference}",
        "delays and leases do not mind; --at and time stamps mean the clock of whoever wrote them. Use NTP",
    )  # fmt: skip


def _clients(health: ServerHealth) -> Iterator[Finding]:
    connected, most = health.number("connected_clients"), health.number("maxclients")
    detail = f"{connected:,} of {most:,} connected" if most else f"{connected:,} connected"
    if most and connected >= _FULL * most:
        yield Finding("clients", WARN, detail, "an agent process takes four to six: raise maxclients")
    else:
        yield Finding("clients", OK_, detail)
    if rejected := health.number("rejected_connections"):
        yield Finding("clients", WARN, f"{rejected:,} were turned away since it started", "raise maxclients")


def _durability(server: ServerDurability, health: ServerHealth) -> Iterator[Finding]:
    yield Finding("durability stream", OK_, _stream_meaning(server))
    if server.disk:
        how = "appendfsync always" if server.appendfsync == "always" else "WAITAOF waits for the sync"
        yield Finding("durability disk", OK_, f"confirmed when on disk ({how})")
    else:
        yield Finding(
            "durability disk", WARN, "cannot be confirmed: critical and high ones are confirmed when stored",
            "CONFIG SET appendfsync always, or a server whose WAITAOF waits (Redis 7.4 or later)"
            if server.appendonly else "CONFIG SET appendonly yes first",
        )  # fmt: skip
    if server.replicas:
        yield Finding("durability replicated", OK_, f"confirmed when all {server.replicas} replicas have it")
    else:
        yield Finding("durability replicated", OK_, "not to be had: no replica; asking for it is an error")
    if health.information.get("role") == "slave":
        yield Finding("role", BAD, "this is a replica: it takes no writes", "give the URL of the primary")


def _stream_meaning(server: ServerDurability) -> str:
    if not server.appendonly:
        return "in memory, and in the next snapshot if any; a crash of the server loses it"
    kept = {
        "always": "on disk before it is confirmed",
        "everysec": "survives a crash of the server; a power cut loses up to about a second",
        "no": "survives a crash of the server; a power cut loses what the system had not written yet",
    }
    return kept.get(server.appendfsync, "in the append-only file, synced as the server is configured")
