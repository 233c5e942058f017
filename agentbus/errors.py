"""Every error that agentbus raises.

::

    AgentBusError
    ├── InvalidValue (ValueError)       a value that can never work; names the field
    │   ├── InvalidTopic
    │   ├── BodyNotSerializable
    │   ├── BodyTooLarge
    │   └── MalformedMessage            an envelope that is not one
    ├── ConfigurationError
    │   ├── PolicyConflict              an address has another policy already
    │   ├── NoBroker                    no URL given, or no server found to embed
    │   └── UnsafeBroker                the server would throw messages away
    ├── BrokerError
    │   ├── BrokerInUse                 the embedded broker has clients; lives in broker.embedded
    │   ├── BrokerUnavailable           cannot be reached, or did not answer
    │   └── BrokerRefused               answered, and said no
    │       ├── BrokerOutOfMemory
    │       ├── GroupMissing
    │       └── WrongKeyType
    ├── ArchiveError                    PostgreSQL could not do what was asked
    │   ├── ArchiveUnavailable          cannot be reached, or did not answer in time
    │   │   └── ArchiveTimeout          a statement took too long
    │   └── ArchiveRefused              answered, and does not take these rows
    ├── NoSuchAddress                   nothing was ever sent there; names those that are close
    ├── PublishError
    │   ├── PublishTimeout              the deadline passed; says whether it may be stored
    │   ├── PublishRefused              the server refused this one message
    │   ├── QueueFull
    │   ├── KeyConflict
    │   ├── LoopDetected                a conversation goes round and round
    │   ├── NoSuchAgent                 nobody has ever served it, or it was forgotten
    │   │   └── UnknownRecipients       the same for some of several; names close ones
    │   ├── DurabilityUnavailable
    │   └── PublisherClosed
    ├── RequestError
    │   ├── RequestTimeout
    │   ├── RequestFailed               the handler ended without an answer
    │   ├── StreamRestarted             the parts so far are not part of the answer
    │   └── PartsMissing                parts of an answer were lost on their way
    ├── NotYourConversation             a conversation of other agents
    ├── ReceiptError
    │   ├── ReceiptTimeout              not everybody came so far in time; names who is missing
    │   └── NoSuchReceipts              of a message to nobody in particular, or of long ago
    ├── DeadLetterError
    │   └── NoSuchDeadLetter            nothing has this id, or nothing matches
    │       └── DeadLetterResolved      it was retried, resolved or dropped before
    ├── NoSuchCursor                    an agent that never subscribed to the channel
    ├── NoSuchSchedule
    ├── NoSuchMessage                   nothing is known of it (any more)
    ├── CancelRefused                   somebody handles it, or it has ended
    ├── DeliveryError
    │   ├── StaleDelivery               the lease was lost: somebody else owns the message
    │   └── AlreadySettled
    └── Outcome signals that a handler raises: Reject, Defer

A class docstring is the class's default message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class AgentBusError(Exception):
    """Something went wrong in agentbus."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidValue(AgentBusError, ValueError):
    """A value is not acceptable."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        #: The name of the parameter or envelope field at fault.
        self.field = field
        #: What is wrong with it and what would be right.
        self.problem = problem

    def __reduce__(self) -> tuple[type[InvalidValue], tuple[str, str]]:
        return type(self), (self.field, self.problem)


class InvalidTopic(InvalidValue):
    """A topic does not follow the grammar."""


class BodyNotSerializable(InvalidValue):
    """A body cannot be written as JSON."""


class BodyTooLarge(InvalidValue):
    """A message is over the size limit."""


class MalformedMessage(InvalidValue):
    """What was stored is not a message envelope."""


class ConfigurationError(AgentBusError):
    """The configuration cannot work."""


class PolicyConflict(ConfigurationError):
    """The address was declared with another policy before."""


class NoBroker(ConfigurationError):
    """No broker: give a URL or start the embedded one."""


class UnsafeBroker(ConfigurationError):
    """The server is configured to throw messages away."""


class BrokerError(AgentBusError):
    """The broker could not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached or did not answer in time."""

    def __init__(self, message: str | None = None, *, uncertain: bool = False) -> None:
        super().__init__(message)
        #: True when the command was sent and may have been executed although no answer came.
        self.uncertain = uncertain


class BrokerRefused(BrokerError):
    """The broker answered with an error."""


class BrokerOutOfMemory(BrokerRefused):
    """The broker is at its memory limit."""


class GroupMissing(BrokerRefused):
    """A stream or its consumer group does not exist (any more)."""


class WrongKeyType(BrokerRefused):
    """A key holds another type than agentbus keeps there."""


class ArchiveError(AgentBusError):
    """The archive could not do what was asked."""


class ArchiveUnavailable(ArchiveError):
    """The archive cannot be reached or did not answer in time."""


class ArchiveTimeout(ArchiveUnavailable):
    """The archive answers, but a statement took longer than it may."""


class ArchiveRefused(ArchiveError):
    """The archive does not take these rows."""


class NoSuchAddress(AgentBusError):
    """Nothing was ever sent to this address, and nobody has served it."""


class PublishError(AgentBusError):
    """A message was not published."""


class PublishTimeout(PublishError):
    """The publish deadline passed."""

    def __init__(self, message: str | None = None, *, uncertain: bool = False) -> None:
        super().__init__(message)
        #: True when the broker may have stored the message although it never answered.
        self.uncertain = uncertain


class PublishRefused(PublishError):
    """The broker refused this message."""


class QueueFull(PublishError):
    """The address holds as many unsettled messages as its limit allows."""


class KeyConflict(PublishError):
    """The idempotency key was used before with another message."""


class LoopDetected(PublishError):
    """A message was refused because its conversation goes round and round."""

    def __init__(
        self, message: str | None = None, *, address: str = "", hops: int = 0, correlation_id: str = ""
    ) -> None:
        super().__init__(message)
        #: Where the message was to go.
        self.address = address
        #: Handlers in a row that led to it.
        self.hops = hops
        #: The conversation.
        self.correlation_id = correlation_id


class NoSuchAgent(PublishError):
    """Nobody has ever served this address."""


class UnknownRecipients(NoSuchAgent):
    """Some recipients were never registered, or were forgotten."""

    def __init__(
        self, message: str | None = None, *, unknown: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(message)
        #: Each unknown name with the known ones that are close to it; looked for only for the first few.
        self.unknown = {name: tuple(close) for name, close in (unknown or {}).items()}


class DurabilityUnavailable(PublishError):
    """The server cannot give the durability that was asked for."""


class PublisherClosed(PublishError):
    """The publisher is closed."""


class RequestError(AgentBusError):
    """A request got no answer."""


class RequestTimeout(RequestError):
    """Nobody answered in time."""


class RequestFailed(RequestError):
    """The request ended without an answer: it was rejected or its handler failed for good."""

    def __init__(self, message: str | None = None, *, reason: str = "failed") -> None:
        super().__init__(message)
        #: The named outcome of the request, for example ``rejected`` or ``exhausted``.
        self.reason = reason


class StreamRestarted(RequestError):
    """The handler began its answer anew: the parts so far are of a run that failed or died."""

    def __init__(self, message: str | None = None, *, parts: int = 0) -> None:
        super().__init__(message)
        #: How many parts had been yielded.
        self.parts = parts


class PartsMissing(RequestError):
    """Parts of an answer were lost: so many came that nobody read, or the broker lost data."""

    def __init__(self, message: str | None = None, *, first: int = 0, last: int = 0) -> None:
        super().__init__(message)
        #: The first part that is missing, counted from 0, and the last.
        self.first, self.last = first, last


class NotYourConversation(AgentBusError):
    """A conversation can be read by its two agents."""


class ReceiptError(AgentBusError):
    """There is something with the receipts of a message."""


class ReceiptTimeout(ReceiptError):
    """Not every recipient came so far in time."""

    def __init__(
        self,
        message: str | None = None,
        *,
        missing: Sequence[str] = (),
        receipts: Sequence[object] = (),
    ) -> None:
        super().__init__(message)
        #: The agents that did not come so far.
        self.missing = tuple(missing)
        #: The `Receipt` of every recipient, as it was at the end.
        self.receipts = tuple(receipts)


class NoSuchReceipts(ReceiptError):
    """There are no receipts of this message."""


class DeadLetterError(AgentBusError):
    """A dead letter cannot be worked on in this way."""


class NoSuchDeadLetter(DeadLetterError):
    """There is no such dead letter."""


class DeadLetterResolved(NoSuchDeadLetter):
    """This dead letter was retried, resolved or dropped before."""

    def __init__(self, message: str | None = None, *, outcome: str = "resolved") -> None:
        super().__init__(message)
        #: What became of it: ``retried``, ``resolved`` or ``dropped``.
        self.outcome = outcome


class NoSuchMessage(AgentBusError):
    """There is no such message where it was looked for."""


class NoSuchCursor(AgentBusError):
    """The agent does not read this channel."""


class NoSuchSchedule(AgentBusError):
    """There is no such schedule."""


class CancelRefused(AgentBusError):
    """The message cannot be cancelled any more."""

    def __init__(
        self, message: str | None = None, *, state: str = "ended", consumer: str | None = None
    ) -> None:
        super().__init__(message)
        #: ``in_flight``, ``dead``, ``logged``, or how it ended.
        self.state = state
        #: Who holds it; None unless it is in flight.
        self.consumer = consumer


class DeliveryError(AgentBusError):
    """A delivery cannot be settled."""


class StaleDelivery(DeliveryError):
    """This process lost its lease: the message belongs to somebody else now."""


class AlreadySettled(DeliveryError):
    """This delivery has been settled before."""


class Reject(Exception):
    """Raise in a handler: this message can never succeed; it becomes a dead letter at once."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        #: Kept with the dead letter and told to an asker.
        self.reason = reason


class Defer(Exception):
    """Raise in a handler: not now; hand the message out again after a delay, spending no attempt."""

    def __init__(self, delay: float | str | object = 5.0) -> None:
        super().__init__(f"deferred for {delay}")
        #: Seconds, ``"5s"`` or a timedelta.
        self.delay = delay
