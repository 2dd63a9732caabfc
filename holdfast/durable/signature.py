"""Converts a function's arguments and result between Python types and stored values.

A value is stored according to its annotation, and is restored through the same annotation. If no annotation
names its class (``Any``, ``dict[str, Any]``, no annotation), an object of a class would be restored as a dict
or a number. Such a value is refused (`UnstorableValue`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.dbos_adapter import values
from holdfast.dbos_adapter.serializer import Stored
from holdfast.errors import InvalidRequest, ModuleWrong, UnstorableValue

_PLAIN = {
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(date, datetime, time, timedelta, Decimal, UUID),
}
# If an annotation names one of these, a value of a subclass is restored as the named class.
_CONTAINERS = (dict, list, tuple, set, frozenset)
_ANY = "'type': 'any'"
_ITERATOR = "'type': 'generator'"
# Without ser_json_inf_nan, infinity would be stored as null.
_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=False, ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Revived:
    """A result that was restored through its annotation, as a replay will restore it."""

    value: Any


@contextmanager
def _reported_as_module_error(whose: str) -> Iterator[None]:
    try:
        yield
    except (PydanticUserError, NameError, TypeError, ValidationError, PydanticSerializationError) as error:
        raise ModuleWrong(f"{whose}: its annotations cannot be read: {error}") from error


def _without_secrets(schema: dict[str, Any], whose: str) -> None:
    if '"writeOnly": true' in json.dumps(schema):
        raise ModuleWrong(
            f"{whose}: a secret (SecretStr, SecretBytes) is stored as asterisks; pass its name."
        )


@contextmanager
def _reported_as_unstorable() -> Iterator[None]:
    """Reports a value that does not fit its annotation as `UnstorableValue` too."""
    try:
        yield
    except (PydanticSerializationError, ValidationError) as error:
        raise UnstorableValue(
            f"The value does not fit its annotation, so it cannot be stored: {error}"
        ) from error
    except RecursionError as error:
        raise values.too_deep() from error


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError):
        raise values.unstorable(type(value)) from None


def _refuse_lost(before: Any, after: Any, *, exactly: bool) -> None:
    """Raises `UnstorableValue` if an object was restored as an object of another class.

    Unless `exactly`, the annotated class may replace a subclass: a float replaces NumPy's float, a dict a
    Counter.
    """
    kind = type(before)
    if kind in _PLAIN:
        return
    if kind in (set, frozenset):
        classes = {*map(type, after)} if isinstance(after, set | frozenset) else set()
        for one in before:
            if type(one) not in _PLAIN | classes:
                _refuse_lost(one, None, exactly=True)
        return
    if kind in (list, tuple, dict):
        same_shape = isinstance(after, list | tuple | dict) and len(after) == len(before)
        of_dict = kind is dict and isinstance(after, dict)
        for one, other in zip(before, after, strict=True) if same_shape else ():
            if type(one) not in _PLAIN:
                _refuse_lost(one, other, exactly=exactly)
            if of_dict and type(before[one]) not in _PLAIN:
                _refuse_lost(before[one], after[other], exactly=exactly)
        return
    if not exactly and type(after) in _CONTAINERS and isinstance(before, type(after)):
        _refuse_lost(type(after)(before), after, exactly=False)
        return
    taken = type(after) in _PLAIN and isinstance(before, type(after)) and not exactly
    if type(after) is not kind and not taken:
        raise values.unstorable(kind)
    for one, other in zip(_parts(before), _parts(after), strict=False):
        _refuse_lost(one, other, exactly=exactly)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, BaseModel):
        return [value.__dict__, value.__pydantic_extra__]
    if is_dataclass(value):
        return [getattr(value, each.name, None) for each in fields(value)]
    return list(value) if isinstance(value, tuple) else []


class Signature:
    """The signature of one function. Annotations are read at first use, when the whole module exists."""

    def __init__(self, function: Callable[..., Any]) -> None:
        where = f"{function.__module__}.{function.__qualname__}"
        self.module = function.__module__
        self.is_async = inspect.iscoroutinefunction(function)
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                self.names: list[str] = []
                self._odd = (
                    f"{where}: parameter {parameter} must be an ordinary one, by position and by name."
                )
                return
        self.names = [parameter.name for parameter in parameters]
        self._odd = ""

    def check(self, name: str) -> None:
        """Raises ``ModuleWrong`` if JSON cannot represent the arguments or the result of the workflow."""
        if self._odd:
            raise ModuleWrong(self._odd)
        with _reported_as_module_error(f"Workflow {name}"):
            schema = self.json_schema()
            for parameter in inspect.signature(self._function).parameters.values():
                if parameter.default is not parameter.empty:
                    adapter = TypeAdapter(self._hints.get(parameter.name, Any))
                    adapter.dump_python(adapter.validate_python(parameter.default), mode="json")
        _without_secrets(schema, f"Workflow {name}")
        self.check_result(f"Workflow {name}")

    def check_result(self, whose: str) -> None:
        """Raises ``ModuleWrong`` if JSON cannot represent the result."""
        with _reported_as_module_error(whose):
            schema = self._returns.json_schema(mode="serialization")
            core = self._returns.core_schema
        _without_secrets(schema, whose)
        if _ITERATOR in repr(core):
            raise ModuleWrong(f"{whose}: an iterator cannot be stored; return a list.")

    def json_schema(self, reference: str = "#/$defs/{model}") -> dict[str, Any]:
        """Returns the schema of the arguments as an object by name. `reference` locates its ``$defs``."""
        return self._model.model_json_schema(by_alias=True, ref_template=reference)

    def parse(self, arguments: dict[str, Any], field: str) -> tuple[Any, ...]:
        """Converts a client's arguments by name into the form that is stored, including defaults.

        The check is strict: text is not converted to a number, and unknown names are refused. Raises
        ``InvalidRequest`` with the path of the first wrong argument under `field`.
        """
        try:
            model = self._model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            path = ".".join([field, *(str(part) for part in first["loc"])])
            raise InvalidRequest(f"{path}: {first['msg']}.", field=path) from None
        return self._positional(model)

    def stored(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Converts the arguments of a call into the form that is stored.

        Raises ``TypeError``, ``ValidationError``, `UnstorableValue`.
        """
        given = inspect.signature(self._function).bind(*args, **kwargs).arguments
        model = self._model.model_validate(given)
        with _reported_as_unstorable():
            dumped = model.model_dump(round_trip=True, warnings=False)
        positional = tuple(dumped[name] for name in self._fields)
        stored: tuple[Any, ...] = values.load(values.dump(positional, known_as=_jsonable))
        given_ones = tuple(getattr(model, name) for name in self._fields)
        exactly = _ANY in repr(self._model.__pydantic_core_schema__)
        _refuse_lost(given_ones, self.parameters(stored), exactly=exactly)
        return stored

    def parameters(self, stored: Sequence[Any]) -> tuple[Any, ...]:
        """Converts stored arguments into the function's. A parameter that was added later has its default."""
        if len(stored) > len(self.names):
            raise ValueError(f"{len(stored)} arguments are stored, this code takes {len(self.names)}")
        given = dict(zip(self.names, stored, strict=False))
        model = self._model.model_validate(given, by_alias=True, by_name=True)
        return tuple(getattr(model, name) for name in self._fields)

    def result(self, result: Any) -> Stored:
        """Returns a result as stored text and as the caller receives it. Raises `UnstorableValue`."""
        text, _, revived = self._dumped(result)
        return Stored(Revived(revived), text)

    def plain_result(self, result: Any) -> Stored:
        """Returns a result as it is loaded from its text, and that value's text. Raises `UnstorableValue`."""
        text, loaded, _ = self._dumped(result)
        # With tags, the loaded value may have a simpler text: an enum as a key has become a string.
        return Stored(loaded, values.dump(loaded) if values.MARK in text else text)

    def _dumped(self, result: Any) -> tuple[str, Any, Any]:
        """Returns the stored text of a result, what is loaded from it, and what it is restored to."""
        with _reported_as_unstorable():
            text, loaded = values.dump_and_load(
                self._returns.dump_python(result, round_trip=True, warnings=False), known_as=_jsonable
            )
            revived = self.revive(loaded)
            if self._returns_container and isinstance(result, type(revived)):
                result = type(revived)(result)
            _refuse_lost(result, revived, exactly=self._returns_any)
        return text, loaded, revived

    def revive(self, stored: Any) -> Any:
        """Restores a stored result. Raises ``ValidationError`` if another type was stored."""
        # Results are stored by the fields' names, not by their aliases.
        return self._returns.validate_python(stored, by_alias=True, by_name=True)

    def _positional(self, model: BaseModel) -> tuple[Any, ...]:
        dumped = model.model_dump(mode="json")
        return tuple(dumped[name] for name in self._fields)

    @property
    def _fields(self) -> list[str]:
        return [f"p{index}" for index in range(len(self.names))]

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._function, include_extras=True)

    @cached_property
    def _returns(self) -> TypeAdapter[Any]:
        hint = self._hints.get("return", Any)
        if get_origin(hint) is Iterable and not inspect.isgeneratorfunction(self._function):
            # pydantic would restore an Iterable as an iterator, which can be read only once.
            hint = list[get_args(hint)]  # type: ignore[misc]
        return TypeAdapter(hint)

    @cached_property
    def _returns_container(self) -> bool:
        return self._returns.core_schema["type"] in {kind.__name__ for kind in _CONTAINERS}

    @cached_property
    def _returns_any(self) -> bool:
        return _ANY in repr(self._returns.core_schema)

    @cached_property
    def _model(self) -> type[BaseModel]:
        # Fields have numbers, and the name as an alias: a parameter may be called `json`, or begin with `_`.
        fields: dict[str, Any] = {}
        for index, parameter in enumerate(inspect.signature(self._function).parameters.values()):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[f"p{index}"] = (
                self._hints.get(parameter.name, Any),
                Field(default, alias=parameter.name),
            )
        return create_model(self._function.__name__, __config__=_CONFIG, **fields)
