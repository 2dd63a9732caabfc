"""What a function takes and returns, between Python's types and the JSON that is stored."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError

from services.domain.errors import InvalidRequest, ModuleWrong

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


@contextmanager
def _told(whose: str) -> Iterator[None]:
    try:
        yield
    except (PydanticUserError, NameError, TypeError, ValidationError) as error:
        raise ModuleWrong(f"{whose}: its annotations cannot be read: {error}") from error


def _without_secrets(schema: dict[str, Any], whose: str) -> None:
    if '"writeOnly": true' in json.dumps(schema):
        raise ModuleWrong(
            f"{whose}: a secret (SecretStr, SecretBytes) is stored as asterisks; pass its name."
        )


class Signature:
    """Of one function. Annotations are read at first use, when all of its module exists."""

    def __init__(self, function: Callable[..., Any]) -> None:
        where = f"{function.__module__}.{function.__qualname__}"
        if inspect.iscoroutinefunction(function):
            raise ModuleWrong(f"{where} is async: steps and workflows of your own are plain functions here.")
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
        """Raises ``ModuleWrong`` for a workflow whose arguments or result JSON cannot hold."""
        if self._odd:
            raise ModuleWrong(self._odd)
        with _told(f"Workflow {name}"):
            schema = self.json_schema()
            for parameter in inspect.signature(self._function).parameters.values():
                if parameter.default is not parameter.empty:
                    TypeAdapter(self._hints.get(parameter.name, Any)).validate_python(parameter.default)
        _without_secrets(schema, f"Workflow {name}")
        self.check_result(f"Workflow {name}")

    def check_result(self, whose: str) -> None:
        """Raises ``ModuleWrong`` where JSON cannot hold the result."""
        with _told(whose):
            schema = self._returns.json_schema(mode="serialization")
        _without_secrets(schema, whose)

    def json_schema(self, reference: str = "#/$defs/{model}") -> dict[str, Any]:
        """Of the arguments, as an object by name; `reference` says where its ``$defs`` will be found."""
        return self._model.model_json_schema(by_alias=True, ref_template=reference)

    def parse(self, arguments: dict[str, Any], field: str) -> tuple[Any, ...]:
        """Arguments by name, as a client sent them, as they are stored: defaults included.

        Strict: no number from text, no unknown name. Raises ``InvalidRequest`` with the path of the first
        wrong one under `field`.
        """
        try:
            model = self._model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            path = ".".join([field, *(str(part) for part in first["loc"])])
            raise InvalidRequest(f"{path}: {first['msg']}.", field=path) from None
        return self._positional(model)

    def stored(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Arguments of a call as they are stored. Raises ``TypeError``, ``ValidationError``."""
        given = inspect.signature(self._function).bind(*args, **kwargs).arguments
        return self._positional(self._model.model_validate(given))

    def parameters(self, stored: Sequence[Any]) -> tuple[Any, ...]:
        """The opposite: what the function is called with; a parameter that came later takes its default."""
        if len(stored) > len(self.names):
            raise ValueError(f"{len(stored)} arguments are stored, this code takes {len(self.names)}")
        given = dict(zip(self.names, stored, strict=False))
        model = self._model.model_validate(given, by_alias=True, by_name=True)
        return tuple(getattr(model, f"p{index}") for index in range(len(self.names)))

    def plain(self, result: Any) -> Any:
        """A result as it is stored. Raises ``PydanticSerializationError``."""
        return self._returns.dump_python(result, mode="json")

    def revive(self, stored: Any) -> Any:
        """The opposite. Raises ``ValidationError`` where another type was stored."""
        # Stored by the fields' names, whatever aliases they have for others.
        return self._returns.validate_python(stored, by_alias=True, by_name=True)

    def _positional(self, model: BaseModel) -> tuple[Any, ...]:
        dumped = model.model_dump(mode="json")
        return tuple(dumped[f"p{index}"] for index in range(len(self.names)))

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._function, include_extras=True)

    @cached_property
    def _returns(self) -> TypeAdapter[Any]:
        return TypeAdapter(self._hints.get("return", Any))

    @cached_property
    def _model(self) -> type[BaseModel]:
        # By number, with the name as an alias: a parameter may be called `json`, or begin with a dash below.
        fields: dict[str, Any] = {}
        for index, parameter in enumerate(inspect.signature(self._function).parameters.values()):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[f"p{index}"] = (
                self._hints.get(parameter.name, Any),
                Field(default, alias=parameter.name),
            )
        return create_model(self._function.__name__, __config__=_CONFIG, **fields)
