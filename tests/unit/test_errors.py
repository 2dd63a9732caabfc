"""The error tree: default messages, and attributes that survive pickling."""

import pickle

import pytest

from holdfast import errors
from holdfast.errors import HoldfastError
from services.composition import features


def _tree(kind: type[HoldfastError]) -> list[type[HoldfastError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _tree(child))]


features()  # imports the errors of the showcase
TREE = [kind for kind in _tree(HoldfastError) if kind.__module__.endswith(".errors")]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_default_message_is_the_docstring_on_one_line(kind: type[HoldfastError]) -> None:
    error = kind()
    assert error.message == str(error) == " ".join((kind.__doc__ or "").split())
    assert "\n" not in error.message
    assert error.message.count(".") >= 2, "a message says what happened and what to do next"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_survives_pickling(kind: type[HoldfastError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("said so")))
    assert type(copy) is kind
    assert copy.message == "said so"


def test_an_invalid_request_keeps_its_field() -> None:
    error = errors.InvalidRequest("no", field="n")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.message, copy.field) == ("no", "n")


def test_what_is_unavailable_says_when_to_come_back() -> None:
    assert errors.DatabaseUnavailable().retry_after_seconds == 1
    assert errors.Draining().retry_after_seconds == 1
    assert errors.InvalidRequest().retry_after_seconds is None
