"""One tree of errors."""

from __future__ import annotations

import inspect
import pickle

import pytest

from agentbus import errors

CLASSES = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
]
ERRORS = [kind for kind in CLASSES if issubclass(kind, errors.AgentBusError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_an_error_of_ours_or_a_signal_and_is_drawn_in_the_tree(kind: type) -> None:
    assert issubclass(kind, errors.AgentBusError) or kind in (errors.Reject, errors.Defer)
    assert kind.__name__ in (errors.__doc__ or "") or kind is errors.AgentBusError


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_the_docstring_is_the_default_message_and_errors_travel_between_processes(kind: type) -> None:
    values = ("field", "is wrong") if issubclass(kind, errors.InvalidValue) else ()
    error = kind(*values)
    assert str(error) == ("field: is wrong" if values else (kind.__doc__ or "").strip())
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_what_a_timeout_knows_survives_a_trip_between_processes() -> None:
    again = pickle.loads(pickle.dumps(errors.PublishTimeout("late", uncertain=True)))
    assert again.uncertain


def test_a_bad_value_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="ttl: bad"):
        raise errors.InvalidValue("ttl", "bad")
