"""Durable workflows: functions under a durable name, and names that DBOS's own decorators declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from dbos import DBOS, WorkflowHandle

from holdfast.dbos_adapter import values
from holdfast.dbos_adapter.outcomes import raise_outcome
from holdfast.durable.measure import measured
from holdfast.durable.signature import Signature
from holdfast.observability import tracing

if TYPE_CHECKING:
    from holdfast.durable.declarations import Queue

P = ParamSpec("P")
R = TypeVar("R")

_running: ContextVar[Workflow[..., Any] | None] = ContextVar("running", default=None)


@dataclass(frozen=True)
class DbosWorkflow:
    """The durable name of a workflow that DBOS's own decorators declare, for example on a class.

    Its queue is the one that names it in ``register(Queue(...))``. `label`: what the operator's page calls
    it, its name if None. `label_with_input`: the label where the input begins with numbers, which take the
    place of ``{0}`` and ``{1}``. `label_with_instance`: whether a configured instance's name is added.
    """

    name: str
    label: str | None = None
    label_with_input: str | None = None
    label_with_instance: bool = False


class Child(Generic[R]):
    """A workflow that another one started."""

    def __init__(self, handle: WorkflowHandle[Any], signature: Signature) -> None:
        self._handle, self._signature = handle, signature

    @property
    def workflow_id(self) -> str:
        """Its id."""
        return self._handle.get_workflow_id()

    def result(self) -> R:
        """What it returned, waited for; raises its error."""
        found = self._handle.get_result()
        return self._signature.revive(found)  # type: ignore[no-any-return]


class Workflow(Generic[P, R]):
    """A durable function. Called, it is the plain function: inside another workflow, a part of that one."""

    def __init__(self, name: str, function: Callable[P, R]) -> None:
        self.name = name
        self.function = function
        self.signature = Signature(function)
        self.queue: Queue | None = None
        self.scheduled = False

        @DBOS.workflow(name=name, max_recovery_attempts=None, validate_args=self._validated)
        def durable(*args: Any) -> Any:
            with measured(name), _run_by(self):
                return values.load(self.signature.result(function(*args)).text)  # type: ignore[call-arg]

        self.durable = durable

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Child[R]:
        """Starts it as a child of the workflow that runs, on its own queue.

        Raises ``RuntimeError`` outside a workflow, and where that workflow's queue does not say
        ``parents=True``: as a suspect of poison it would hold the one place that its child needs.
        """
        parent = _running.get()
        if parent is None or parent.queue is None or self.queue is None:
            raise RuntimeError(f"{self.name}.enqueue belongs into the body of a workflow that runs")
        if parent.queue is self.queue:
            raise RuntimeError(f"{self.name} needs another queue than {parent.name}, which waits for it")
        if not parent.queue.parents:
            raise RuntimeError(
                f'{parent.name} starts children: say Queue("{parent.queue.name}", parents=True)'
            )
        arguments = self.signature.stored(*args, **kwargs)
        with tracing.propagated():
            return Child(DBOS.enqueue_workflow(self.queue.name, self.durable, *arguments), self.signature)

    def _validated(self, args: Sequence[Any], _: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The scheduler hands a context over after the time, which is always None here.
        given = args[:-1] if self.scheduled and len(args) == 2 else args
        if self.scheduled and given and isinstance(given[0], datetime):
            # Text is what a parameter of any type is made from.
            given = (given[0].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),)
        try:
            return self.signature.parameters(given), {}
        except BaseException as error:  # of a validator: here it would end the queue's thread
            raise_outcome(error)


@contextmanager
def _run_by(workflow: Workflow[..., Any]) -> Iterator[None]:
    token = _running.set(workflow)
    try:
        yield
    finally:
        _running.reset(token)
