"""From the broker's answer to what each caller is told."""

from __future__ import annotations

from agentbus.broker.inbox import BatchAnswer
from agentbus.errors import (
    KeyConflict,
    LoopDetected,
    NoSuchAgent,
    PublishRefused,
    PublishTimeout,
    QueueFull,
)
from agentbus.message.codec import decode
from agentbus.message.durations import readable
from agentbus.send.batch import Batch
from agentbus.send.envelope import Outgoing
from agentbus.send.stored import Stored, Waiting


def verdicts(batch: Batch, answer: BatchAnswer, limit: int) -> list[Stored | Exception]:
    """Return, in the order of the batch, what became of each message."""
    if answer.kind != "recovered":
        pairs = zip(batch.parts, answer.results, strict=True)
        return [_verdict(part, text, answer.known, limit) for part, text in pairs]
    refusals = answer.refusals or {}
    results = []
    for index, part in enumerate(batch.parts, 1):
        refusal = refusals.get(str(index))
        text = b"" if refusal is None else b"!" + refusal.encode()
        results.append(_verdict(part, text, answer.known, limit))
    return results


def first_due(batch: Batch, answer: BatchAnswer) -> int | None:
    """Return when the first delayed message of a batch comes due, in ms of the server's clock.

    None when it stored no delayed one; 0, which is now, when the batch was stored before and nobody knows.
    """
    if not batch.options:
        return None
    if answer.kind == "recovered":
        options = [part.outgoing.option or {} for part in batch.parts]
        return 0 if any("at" in option or "delay" in option for option in options) else None
    times = (int(text.rpartition(b" ")[2]) for text in answer.results if text.startswith(b"due "))
    return min(times, default=None)


def _verdict(part: Waiting, text: bytes, known: bool, limit: int) -> Stored | Exception:
    if text[:1] == b"!":
        return _refusal(part, text[1:].decode(errors="replace"), known, limit)
    outgoing = part.outgoing
    entry_id = None if not text or text.startswith(b"due ") else text.decode()
    return Stored(outgoing.message_id, outgoing.destination.address, entry_id, "stream", known)


def _refusal(part: Waiting, refusal: str, known: bool, limit: int) -> Stored | Exception:
    outgoing = part.outgoing
    address = outgoing.destination.address
    reason, _, rest = refusal.partition(" ")
    if reason == "duplicate":
        kind, _, entry_id = rest.partition(" ")
        stored = Stored(outgoing.message_id, address, None, "stream", known, duplicate=True)
        return stored if kind == "due" else stored._replace(entry_id=entry_id)
    if reason == "full":
        return QueueFull(_why_full(address, rest, limit, outgoing.destination.is_channel))
    if reason == "conflict":
        key = (outgoing.option or {}).get("key", "").partition("/")[2]
        return KeyConflict(f"key: {key!r} was used before for another message to {address}")
    if reason == "loop":
        return _loop(outgoing, rest)
    if reason == "unknown":
        return NoSuchAgent(_why_unknown(address, outgoing.destination.recipient))
    if reason == "expires":
        return PublishRefused(f"ttl: the message would expire before the time given with at ({address})")
    return PublishRefused(_explain(rest))


def _why_unknown(address: str, recipient: tuple[str, str]) -> str:
    kind, name = recipient
    if kind == "capability":
        return f"no agent with the capability {name!r} has ever served {address}, and strict was asked for"
    return f"nobody has ever served {address}, and strict was asked for"


def _why_full(address: str, rest: str, limit: int, is_channel: bool) -> str:
    allowed = f"as its limit allows ({limit:,} unless its policy says otherwise)"
    cause, _, waiting = rest.partition(" ")
    if cause == "owed":
        return (
            f"at {address} copies of {waiting} messages are owed to agents that are bound to their topics, "
            "and nobody makes them; `agentbus workers run reclaim` does"
        )
    if is_channel:
        trims = "`agentbus workers run retention` trims it"
        return f"the log of {address} holds as many messages {allowed}; {trims}"
    if cause == "archive" and waiting.isdigit():
        return (
            f"{address} holds as many messages {allowed}; {int(waiting):,} of them have ended and wait for "
            "the archive, which is behind or away: `agentbus archive status` and `agentbus workers` tell more"
        )
    return f"{address} holds as many unsettled messages {allowed}"


def _loop(outgoing: Outgoing, rest: str) -> LoopDetected:
    message = decode(outgoing.text)
    conversation = message.correlation_id or message.message_id
    address = outgoing.destination.address
    limit, *numbers = rest.split()
    if limit == "hops":
        problem = (
            f"it would be hop {message.hops} of conversation {conversation}, and {numbers[0]} are allowed"
        )
        remedy = "Policy(max_hops=...) there allows more, max_hops=0 any number"
    else:
        within = readable(int(numbers[1]) / 1000)
        # A long name was counted under its digest.
        named, slash, _ = (outgoing.option or {}).get("pair", "").partition("/")
        sender = named if slash and named else message.from_agent or "one sender"
        problem = f"{sender} has sent it {numbers[0]} messages of conversation {conversation} within {within}"
        remedy = "Policy(loop_messages=..., loop_window=...) there allows more, loop_messages=0 any number"
    text = f"{address}: {problem}; do agents answer each other for ever? {remedy}"
    return LoopDetected(text, address=address, hops=message.hops, correlation_id=conversation)


def _explain(problem: str) -> str:
    if "exhausted the last possible" in problem:
        return (
            f"{problem}. Somebody added an entry with the largest possible id, after which a stream takes "
            "no more; `agentbus doctor` tells how to repair it"
        )
    return problem


def timed_out(uncertain: bool) -> PublishTimeout:
    """Return the error for a deadline that passed; ``uncertain`` when the message had been sent."""
    if uncertain:
        return PublishTimeout(
            "the broker did not answer before the deadline; the message may be stored all the same. "
            "Publish with a key to be able to repeat it safely",
            uncertain=True,
        )
    return PublishTimeout("the broker took no messages before the deadline; this one was never sent")


def broken_off(uncertain: bool) -> PublishTimeout:
    """Return the error for a message whose sending was cancelled together with the program's tasks."""
    certainty = "the message may be stored all the same" if uncertain else "this message was never sent"
    return PublishTimeout(f"sending was cancelled; {certainty}", uncertain=uncertain)
