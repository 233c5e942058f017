"""From what a caller gives to what travels: one envelope and what the publish script must know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

import orjson
import uuid_utils

from agentbus.errors import InvalidTopic, InvalidValue
from agentbus.message.codec import check_body_type, encode, encode_body
from agentbus.message.current import HANDLED
from agentbus.message.durations import Duration, instant_milliseconds, milliseconds, seconds
from agentbus.message.message import ENVELOPE_VERSION, Message
from agentbus.message.policy import Durability, Priority, Retry, check_durability, check_priority
from agentbus.message.reply_address import ReplyAddress, Wants
from agentbus.message.topics import Destination, Topic, parse_conversation_topic, parse_topic

#: What a publish may be addressed to.
AnyTopic = str | Topic[Any, Any]


class MessageOptions(TypedDict, total=False):
    """What can be said about one message besides its topic and body."""

    #: critical, high, normal (the default), low or background.
    priority: Priority
    #: How long after its acceptance the message is worth handling.
    ttl: Duration
    #: Hand it out only after this time.
    delay: Duration
    #: Hand it out only at this point in time.
    at: datetime | str
    #: Idempotency: a second message with this key from the same sender is not stored again.
    key: str
    #: stream, disk or replicated; left out: disk for critical and high where the server can.
    durability: Durability
    #: Refuse an address that nobody has ever served.
    strict: bool
    #: How often and how fast this message is tried again; wins over the handler's own.
    retry: Retry
    #: False: settled before it is handled, so that it runs at most once.
    require_ack: bool
    #: What the sender knew when it wrote the body.
    context: Mapping[str, Any]
    #: Anything else about the body.
    metadata: Mapping[str, Any]
    #: The conversation.
    correlation_id: str
    #: The message that caused this one.
    causation_id: str
    session_id: str
    project: str
    #: Where an answer goes; set by `Bus.request`.
    reply_to: str
    #: W3C trace context.
    trace: Mapping[str, str]
    #: Further envelope fields of your own; they are kept and passed on.
    extra: Mapping[str, Any]


class PublishOptions(MessageOptions, total=False):
    """The same, and how to send it."""

    #: How long to wait for the broker, in all.
    deadline: Duration


KNOWN_OPTIONS = frozenset(PublishOptions.__annotations__)
#: Options that are copied into the envelope under their own name.
_COPIED = ("correlation_id", "causation_id", "session_id", "project", "reply_to")
#: Options that are objects in the envelope, or become fields of it.
_OBJECTS = ("context", "metadata", "trace", "extra")
#: Fields of the envelope that `compose` does not always write, but every receiver understands.
_UNDERSTOOD = frozenset(
    (
        *_COPIED,
        "ttl",
        "delivery",
        "trace",
        "channel",
        "capability",
        "recipients",
        "recipient_mode",
        "timestamp",
        "log_entry",
        "hops",
        "copy_of",
        "replay",
    )
)
#: Options that make a message need more than its lane in the publish script.
_SPECIAL = frozenset(("ttl", "delay", "at", "key", "strict"))
#: Longer names of a pair of agents in a conversation are counted under their digest.
_LONGEST_PAIR = 200
#: Priorities that are confirmed when on disk, where the server can tell.
_CONFIRMED_ON_DISK = 2


@dataclass(frozen=True, slots=True)
class Sender:
    """Who publishes."""

    agent: str | None = None
    type: str | None = None
    #: The same as fields of an envelope; what is None is left out of it.
    fields: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = {"from_agent": self.agent, "from_type": self.type}
        fields = {name: value for name, value in named.items() if value is not None}
        object.__setattr__(self, "fields", fields)


@dataclass(slots=True)
class Outgoing:
    """One message on its way to the broker."""

    destination: Destination
    message_id: str
    text: bytes
    #: Index into `policy.PRIORITIES`.
    lane: int
    #: What the publish script must know beyond the lane; None for a plain message.
    option: dict[str, Any] | None
    #: None = the default of the priority.
    durability: Durability | None


@dataclass(frozen=True, slots=True)
class Addressing:
    """What all copies of one message to named agents have in common."""

    message_id: str
    recipients: tuple[str, ...]
    #: ``multi``, or ``direct`` for one agent's word to another.
    mode: str
    #: The channel or conversation it is said in, if any.
    channel: str | None = None
    #: Its entry in the log of that.
    log_entry: str | None = None

    def add_to(self, envelope: dict[str, Any]) -> None:
        """Write it into the envelope of one copy."""
        envelope["message_id"] = self.message_id
        envelope["recipients"] = self.recipients
        envelope["recipient_mode"] = self.mode
        if self.channel is not None:
            envelope["channel"] = self.channel
        if self.log_entry is not None:
            envelope["log_entry"] = self.log_entry


def compose(
    sender: Sender,
    topic: AnyTopic,
    body: Any,
    options: PublishOptions,
    limit_bytes: int,
    addressed: Addressing | None = None,
) -> Outgoing:
    """Return the message to send; raises `InvalidValue` naming the first field at fault.

    Within a handler it continues the conversation of the message that is handled; what ``options`` say wins.
    """
    handled = HANDLED.get()
    if handled is not None:
        options = _continued(handled[0], options)
    if isinstance(topic, Topic):
        check_body_type(body, topic.body)
        topic = topic.text
    destination = parse_topic(topic) if addressed is None else parse_conversation_topic(topic)
    if options:
        _check_options(options)
    if destination.is_channel:
        _check_channel(destination, options)
        options = _with_project(destination, options)
    recipient, name = destination.recipient
    message_id = str(uuid_utils.uuid7()) if addressed is None else addressed.message_id
    envelope: dict[str, Any] = {
        "version": ENVELOPE_VERSION,
        "message_id": message_id,
        **sender.fields,
        recipient: name,
        "message_type": destination.message_type,
        "priority": "normal",
        "timestamp": datetime.now(UTC),
        "body": encode_body(body, options.get("context"), options.get("metadata")) if options
        else encode_body(body, None, None),
    }  # fmt: skip
    if addressed is not None:
        addressed.add_to(envelope)
    if not options:
        return Outgoing(destination, message_id, encode(envelope, limit_bytes), 2, None, None)
    return _composed(sender, topic, destination, envelope, options, handled, limit_bytes)


def _composed(
    sender: Sender,
    topic: str,
    destination: Destination,
    envelope: dict[str, Any],
    options: PublishOptions,
    handled: tuple[Message, str] | None,
    limit_bytes: int,
) -> Outgoing:
    """Finish a message with options: what they say goes into the envelope, and to the script."""
    message_id: str = envelope["message_id"]
    lane = check_priority(options.get("priority", "normal"))
    option = _script_option(sender, message_id, options)
    _fill(envelope, options)
    if handled is not None:
        option = _guarded(option or {}, handled[0].hops + 1, handled[1] or sender.agent or "", envelope)
    if option is not None and "key" in option:
        option["digest"] = _digest(topic, envelope, options)
    durability = check_durability(options["durability"]) if "durability" in options else None
    return Outgoing(destination, message_id, encode(envelope, limit_bytes), lane, option, durability)


def _continued(cause: Message, options: PublishOptions) -> PublishOptions:
    """Return the options of a message that ``cause`` led to."""
    inherited: PublishOptions = {
        "correlation_id": cause.correlation_id or cause.message_id,
        "causation_id": cause.message_id,
    }
    if (session_id := cause.session_id) is not None:
        inherited["session_id"] = session_id
    if (project := cause.project) is not None:
        inherited["project"] = project
    if trace := cause.trace:
        inherited["trace"] = trace
    return {**inherited, **options}


def _guarded(option: dict[str, Any], hops: int, agent: str, envelope: dict[str, Any]) -> dict[str, Any]:
    """Count the hop, and add what the script needs to recognize messages that go round for ever.

    ``agent`` is who handles, not whose name it is sent in: agents of one process may share a bus.
    """
    envelope["hops"] = option["hops"] = hops
    conversation = envelope.get("correlation_id") or envelope["message_id"]
    pair = f"{agent}/{conversation}"
    if len(pair) > _LONGEST_PAIR:
        pair = hashlib.blake2b(pair.encode("utf-8", "replace"), digest_size=16).hexdigest()
    option["pair"] = pair
    return option


def _check_channel(destination: Destination, options: PublishOptions) -> None:
    """Refuse what only an inbox can do, rather than store a message that does not do it."""
    address = destination.address
    for name in ("delay", "at"):
        if name in options:
            raise InvalidValue(
                name,
                f"{address} is a channel, whose log has no later; use a schedule (at:<time> or "
                "interval:<seconds>), or send it to an inbox, agent.<name>",
            )
    if options.get("strict"):
        raise InvalidValue(
            "strict",
            f"{address} is a channel, which nobody has to serve; leave it out, or send to agent.<name>",
        )
    if "reply_to" in options and not _wants_all(options["reply_to"]):
        raise InvalidTopic(
            "topic",
            f"{address} is a channel, where everybody may answer: collect their answers, or ask one, "
            "agent.<name>",
        )


def _with_project(destination: Destination, options: PublishOptions) -> PublishOptions:
    """Say of what is sent on a project's channel whose it is, wherever it goes from there."""
    if not destination.address.startswith("project.") or "project" in options:
        return options
    return {**options, "project": destination.name}


def _wants_all(reply_to: str) -> bool:
    address = ReplyAddress.parse(reply_to) if isinstance(reply_to, str) else None
    return address is not None and address.wants is Wants.ALL


def wants_disk(outgoing: Outgoing) -> bool:
    """Return whether a message without a durability of its own is to be confirmed when on disk."""
    return outgoing.durability is None and outgoing.lane < _CONFIRMED_ON_DISK


def _check_options(options: PublishOptions) -> None:
    """Refuse what is no option, and what the receiver would have to call malformed."""
    unknown = options.keys() - KNOWN_OPTIONS
    if unknown:
        raise InvalidValue(sorted(unknown)[0], f"is not a publish option; those are {sorted(KNOWN_OPTIONS)}")
    for name in _OBJECTS:
        value = options.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise InvalidValue(name, f"must be a mapping, not {value!r}")


def _fill(envelope: dict[str, Any], options: PublishOptions) -> None:
    """Put the options that the receiver reads into the envelope."""
    if options.get("extra"):
        _add_extra(envelope, options["extra"])
    envelope["priority"] = options.get("priority", "normal")
    if "ttl" in options:
        envelope["ttl"] = seconds(options["ttl"], "ttl")
    if "retry" in options or "require_ack" in options:
        envelope["delivery"] = _delivery(options)
    for name in _COPIED:
        value = options.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise InvalidValue(name, f"must be text, not {value!r}")
            envelope[name] = value
    if options.get("trace"):
        envelope["trace"] = dict(options["trace"])


def _add_extra(envelope: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """Add the sender's own fields; those that receivers understand have options of their own."""
    for name, value in extra.items():
        if not isinstance(name, str):
            raise InvalidValue("extra", f"the names of fields are text, not {name!r}")
        if name in envelope or name in _UNDERSTOOD:
            raise InvalidValue("extra", f"{name!r} is a field of the envelope itself")
        envelope[name] = value


def _delivery(options: PublishOptions) -> dict[str, Any]:
    """Return the options that the receiver obeys when it settles."""
    delivery: dict[str, Any] = {}
    if "require_ack" in options:
        delivery["require_ack"] = bool(options["require_ack"])
    if "retry" in options:
        retry = options["retry"]
        if not isinstance(retry, Retry):
            raise InvalidValue("retry", f"must be a Retry, not {retry!r}")
        delivery["max_retries"] = retry.max_retries
        delivery["retry_delay"] = seconds(retry.retry_delay, "retry_delay")
        delivery["when_exhausted"] = retry.when_exhausted
    return delivery


def _script_option(sender: Sender, message_id: str, options: PublishOptions) -> dict[str, Any] | None:
    if _SPECIAL.isdisjoint(options):
        return None
    option: dict[str, Any] = {"id": message_id}
    if "ttl" in options:
        option["ttl"] = milliseconds(options["ttl"], "ttl")
        if option["ttl"] == 0:
            raise InvalidValue("ttl", "must be longer than zero")
    if "delay" in options and "at" in options:
        raise InvalidValue("delay", "and at exclude each other; give one")
    if "delay" in options:
        option["delay"] = milliseconds(options["delay"], "delay")
        if 0 < option.get("ttl", 0) <= option["delay"]:
            raise InvalidValue(
                "ttl", f"{options['ttl']!r} ends before the delay of {options['delay']!r} does"
            )
    if "at" in options:
        option["at"] = instant_milliseconds(options["at"], "at")
    if "key" in options:
        option["key"] = f"{sender.agent or ''}/{_checked_key(options['key'])}"
    if options.get("strict"):
        option["strict"] = True
    return option


def _checked_key(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= 512:
        raise InvalidValue("key", f"must be text of 1 to 512 characters, not {key!r}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        # The script could not read it, and would refuse the messages of others in the same batch.
        raise InvalidValue("key", f"{key!r} is not valid Unicode: {error.reason}") from error
    return key


def _digest(topic: str, envelope: Mapping[str, Any], options: PublishOptions) -> str:
    """Return a digest of all that must be equal in a repeated publish: topic, body and options."""
    relevant = {name: options[name] for name in ("priority", "ttl", "delay", "at") if name in options}
    try:
        text = orjson.dumps(
            [topic, envelope["body"], {name: str(value) for name, value in relevant.items()}],
            option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS,
            default=str,
        )
    except TypeError:
        # Not JSON: encoding the envelope raises the error that names the field.
        return ""
    return hashlib.blake2b(text, digest_size=16).hexdigest()
