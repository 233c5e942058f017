"""Envelopes to JSON text and back, bodies to JSON values and back."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from agentbus.errors import BodyNotSerializable, BodyTooLarge, InvalidValue, MalformedMessage
from agentbus.message.durations import is_ttl
from agentbus.message.message import ENVELOPE_VERSION, Message
from agentbus.message.policy import PRIORITY_INDEX

#: orjson refuses integers beyond 64 bits by itself; without UTC_Z a zone would be written as +00:00.
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
_TEXT = frozenset((
    "message_id", "message_type", "from_agent", "from_type", "to_agent", "recipient_mode", "channel",
    "capability", "timestamp", "correlation_id", "causation_id", "session_id", "project", "reply_to",
    "copy_of",
))  # fmt: skip
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))
_OPTIONAL_OBJECTS = frozenset(("delivery", "trace"))


def encode_body(content: Any, context: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> Any:
    """Return the envelope's ``body`` object for a pydantic model, dataclass, JSON value or bytes."""
    body: dict[str, Any]
    if type(content) in _PLAIN:
        # Asked first: whether something is a pydantic model is a question to its metaclass.
        body = {"content": content}
    elif isinstance(content, BaseModel):
        body = {"content": content.model_dump(mode="json")}
    elif isinstance(content, (bytes, bytearray, memoryview)):
        body = {"content": base64.b64encode(content).decode("ascii"), "content_encoding": "base64"}
    else:
        body = {"content": content}
    if context:
        body["context"] = dict(context)
    if metadata:
        body["metadata"] = dict(metadata)
    return body


def encode(envelope: Mapping[str, Any], limit_bytes: int) -> bytes:
    """Return the envelope as JSON text.

    Raises `BodyNotSerializable` naming the field or, above ``limit_bytes``, `BodyTooLarge` with the size.
    """
    try:
        text = orjson.dumps(envelope, option=_OPTIONS, default=_encode_inner)
    except (TypeError, ValueError, RecursionError) as error:
        field = _field_at_fault(envelope)
        raise BodyNotSerializable(field, f"cannot be written as JSON: {error}") from error
    # NaN and infinity are written as null: look for them only where there is a null nobody asked for.
    if b"null" in text and text.count(b"null") > sum(value is None for value in envelope.values()):
        _refuse_lost_numbers(envelope.get("body"))
    if len(text) > limit_bytes:
        raise BodyTooLarge(
            "body",
            f"the message is {len(text):,} bytes; the limit is {limit_bytes:,}. Send large content as a "
            "file and put its name or address into the message",
        )
    return text


def _field_at_fault(envelope: Mapping[str, Any]) -> str:
    """Return the first field that is not JSON by itself."""
    body = envelope.get("body")
    parts = body if isinstance(body, dict) else {}
    fields = {**{name: value for name, value in envelope.items() if name != "body"}}
    fields.update((name, parts[name]) for name in ("context", "metadata") if name in parts)
    for name, value in fields.items():
        try:
            orjson.dumps(value, option=_OPTIONS, default=_encode_inner)
        except (TypeError, ValueError, RecursionError):
            return name
    return "body"


def _refuse_lost_numbers(value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BodyNotSerializable("body", f"cannot be written as JSON: it has no {value}")
    elif isinstance(value, BaseModel):
        _refuse_lost_numbers(value.model_dump())
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _refuse_lost_numbers(getattr(value, field.name))
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _refuse_lost_numbers(item)


def _encode_inner(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


def decode(text: bytes) -> Message:
    """Return the message in a piece of JSON text; raise `MalformedMessage` naming the field at fault."""
    try:
        envelope = orjson.loads(text)
    except ValueError as error:
        raise MalformedMessage("message", f"is not JSON: {error}") from error
    if type(envelope) is not dict:
        raise MalformedMessage("message", f"is not a JSON object but {type(envelope).__name__}")
    for field in ("message_id", "message_type"):
        if not envelope.get(field):
            raise MalformedMessage(field, "is missing")
    # One pass over what is there instead of a look-up for each field that could be.
    for field, value in envelope.items():
        if type(value) is str:
            if field in _NOT_TEXT and not (field == "priority" and value in PRIORITY_INDEX):
                _check_field(field, value)
        elif field != "version" or value != ENVELOPE_VERSION:
            _check_field(field, value)
    return Message(envelope)


def _check_field(field: str, value: Any) -> None:
    """Check a field whose wrong type would break the code that reads it."""
    if value is None:
        return
    check = _CHECKS.get(field)
    if check is not None:
        check(value)
    elif field in _OPTIONAL_OBJECTS:
        if type(value) is not dict:
            raise MalformedMessage(field, f"must be an object, not {value!r}")
    elif field in _TEXT and type(value) is not str:
        raise MalformedMessage(field, f"must be text, not {value!r}")


def _check_priority(priority: Any) -> None:
    if type(priority) is not str or priority not in PRIORITY_INDEX:
        raise MalformedMessage("priority", f"{priority!r} is not a priority")


def _check_version(version: Any) -> None:
    if version != ENVELOPE_VERSION:
        raise MalformedMessage("version", f"{version!r} is unknown; this agentbus reads {ENVELOPE_VERSION}")


def _check_hops(hops: Any) -> None:
    if type(hops) is not int or hops < 0:
        raise MalformedMessage("hops", f"must be a whole number of 0 or more, not {hops!r}")


def _check_recipients(recipients: Any) -> None:
    if type(recipients) is not list or not all(type(name) is str for name in recipients):
        raise MalformedMessage("recipients", f"must be a list of names, not {recipients!r}")


def _check_ttl(ttl: Any) -> None:
    if not is_ttl(ttl):
        raise MalformedMessage("ttl", f"must be seconds, from 0 to ten years, not {ttl!r}")


def _check_body(body: Any) -> None:
    if type(body) is not dict:
        raise MalformedMessage("body", f"must be an object with content, not {type(body).__name__}")
    if "content_encoding" in body:
        _check_base64(body)
    for field in ("context", "metadata"):
        value = body.get(field)
        if value is not None and type(value) is not dict:
            raise MalformedMessage(f"body.{field}", f"must be an object, not {value!r}")


def _check_base64(body: dict[str, Any]) -> None:
    if body["content_encoding"] != "base64":
        raise MalformedMessage("body.content_encoding", f"{body['content_encoding']!r} is unknown")
    try:
        base64.b64decode(body.get("content", ""), validate=True)
    except (ValueError, TypeError) as error:
        raise MalformedMessage("body.content", f"is not base64: {error}") from error


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "version": _check_version,
    "priority": _check_priority,
    "body": _check_body,
    "hops": _check_hops,
    "recipients": _check_recipients,
    "ttl": _check_ttl,
}
#: Fields that text alone does not make right.
_NOT_TEXT = _OPTIONAL_OBJECTS | _CHECKS.keys()


@lru_cache(maxsize=1024)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def check_annotation(annotation: Any) -> None:
    """Raise `InvalidValue` when no body can ever be validated as ``annotation``."""
    try:
        _adapter(annotation)
    except PydanticUserError as error:
        raise InvalidValue("annotation", f"{annotation!r} cannot be validated: {error.message}") from error


def validate_content(content: Any, annotation: Any) -> Any:
    """Return ``content`` as ``annotation`` (a pydantic model, dataclass, TypedDict or plain type).

    Raises `MalformedMessage` that names the field inside the body.
    """
    try:
        return _adapter(annotation).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MalformedMessage(f"body.content{'.' + place if place else ''}", first["msg"]) from error


def check_body_type(content: Any, annotation: type[Any]) -> None:
    """Raise `BodyNotSerializable` when a body given to a typed topic does not fit its type."""
    if isinstance(content, annotation):
        return
    try:
        plain = dataclasses.asdict(content) if dataclasses.is_dataclass(content) else content  # type: ignore[arg-type]
        validate_content(plain, annotation)
    except MalformedMessage as error:
        raise BodyNotSerializable("body", f"is not a {annotation.__name__}: {error}") from error
