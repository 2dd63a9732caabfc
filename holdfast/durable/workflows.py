"""Durable workflows: functions under a durable name, and workflows that DBOS's own decorators declare."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from dbos import DBOS, WorkflowHandle, WorkflowHandleAsync

from holdfast.dbos_adapter.outcomes import raise_outcome
from holdfast.dbos_adapter.registrations import takes_of
from holdfast.dbos_adapter.serializer import keep_text
from holdfast.durable.signature import Signature
from holdfast.observability import tracing

if TYPE_CHECKING:
    from holdfast.durable.declarations import Queue

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_running: ContextVar[Workflow[..., Any] | None] = ContextVar("running", default=None)


@dataclass(frozen=True)
class DbosWorkflow:
    """The durable name of a workflow that DBOS's own decorators declare, for example on a class.

    Its queue is the one that lists it in ``register(Queue(...))``. `label` is its label on the operator's
    page; None means its name. `label_with_input` is the label if the input begins with numbers, which replace
    ``{0}`` and ``{1}``. `label_with_instance` appends the name of a configured instance.
    """

    name: str
    label: str | None = None
    label_with_input: str | None = None
    label_with_instance: bool = False


class Child(Generic[R]):
    """A handle of a workflow that another workflow started."""

    def __init__(self, handle: WorkflowHandle[Any] | WorkflowHandleAsync[Any], signature: Signature) -> None:
        self._handle, self._signature = handle, signature

    @property
    def workflow_id(self) -> str:
        """The id of the child workflow."""
        return self._handle.get_workflow_id()

    def result(self) -> R:
        """Waits for the child's result and returns it. Raises the child's error. For plain bodies."""
        return self._signature.revive(self._handle.get_result())  # type: ignore[no-any-return]

    async def result_async(self) -> R:
        """The same for async bodies, of a child that `Workflow.enqueue_async` has started."""
        found = self._handle.get_result()
        found = await found if inspect.isawaitable(found) else found
        return self._signature.revive(found)  # type: ignore[no-any-return]


class Workflow(Generic[P, R]):
    """A durable function. A direct call runs the plain function, inside a workflow as a part of it.

    `label` and `label_with_input` are its label on the operator's page, as those of `DbosWorkflow`.
    """

    label_with_instance = False

    def __init__(
        self,
        name: str,
        function: Callable[P, R],
        label: str | None = None,
        label_with_input: str | None = None,
    ) -> None:
        self.name, self.label, self.label_with_input = name, label, label_with_input
        self.function = function
        self.signature = Signature(function)
        self.queue: Queue | None = None
        self.scheduled = False

        def durable(*args: Any) -> Any:
            with _run_by(self):
                stored = self.signature.plain_result(function(*args))  # type: ignore[call-arg]
                # DBOS stores what this thread returns next.
                return keep_text(stored)

        async def durable_async(*args: Any) -> Any:
            with _run_by(self):
                result = await function(*args)  # type: ignore[call-arg, misc]
                # A large result would block the event loop, which all async workflows share.
                return (await asyncio.to_thread(self.signature.plain_result, result)).value

        body: Callable[..., Any] = durable_async if self.signature.is_async else durable
        decorate = DBOS.workflow(name=name, max_recovery_attempts=None, validate_args=self._validated)
        self.durable = decorate(body)
        # Which arguments a claim finds acceptable: see `registrations.arguments_of`.
        self.durable.takes = self._takes  # type: ignore[attr-defined]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @overload
    def enqueue(self: Workflow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Child[T]: ...

    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Child[R]: ...

    def enqueue(self, *args: Any, **kwargs: Any) -> Child[Any]:
        """Starts this workflow as a child of the running workflow, on its own queue. For plain bodies.

        Raises ``RuntimeError`` outside a workflow, and if the running workflow's queue does not have
        ``parents=True``: as a suspect, the parent would hold the single slot that its child needs.
        """
        queue, arguments = self._as_child(*args, **kwargs)
        with tracing.propagated():
            return Child(DBOS.enqueue_workflow(queue.name, self.durable, *arguments), self.signature)

    @overload
    async def enqueue_async(
        self: Workflow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Child[T]: ...

    @overload
    async def enqueue_async(self, *args: P.args, **kwargs: P.kwargs) -> Child[R]: ...

    async def enqueue_async(self, *args: Any, **kwargs: Any) -> Child[Any]:
        """Starts this workflow as `enqueue` does. For async bodies."""
        queue, arguments = self._as_child(*args, **kwargs)
        with tracing.propagated():
            handle = await DBOS.enqueue_workflow_async(queue.name, self.durable, *arguments)
            return Child(handle, self.signature)

    def _as_child(self, *args: Any, **kwargs: Any) -> tuple[Queue, tuple[Any, ...]]:
        """Returns the queue and the stored arguments of a child of the running workflow."""
        parent = _running.get()
        if parent is None or parent.queue is None or self.queue is None:
            raise RuntimeError(f"{self.name}.enqueue belongs into the body of a workflow that runs")
        if parent.queue is self.queue:
            raise RuntimeError(f"{self.name} needs another queue than {parent.name}, which waits for it")
        if not parent.queue.parents:
            raise RuntimeError(
                f'{parent.name} starts children: say Queue("{parent.queue.name}", parents=True)'
            )
        return self.queue, self.signature.stored(*args, **kwargs)

    def _takes(self) -> dict[str, Any]:
        takes = takes_of(inspect.signature(self.function).parameters.values())
        return takes | ({"tick": True} if len(self.signature.names) == 1 else {})

    def _validated(self, args: Sequence[Any], _: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The scheduler passes a context after the time. It is always None here. In a rolling upgrade,
        # code runs ticks of a schedule that it does not declare.
        is_tick = len(args) == 2 and len(self.signature.names) == 1 and isinstance(args[0], datetime)
        given = args[:-1] if is_tick or (self.scheduled and len(args) == 2) else args
        if (is_tick or self.scheduled) and given and isinstance(given[0], datetime):
            # A parameter of any type can be parsed from text.
            given = (given[0].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),)
        try:
            return self.signature.parameters(given), {}
        except BaseException as error:  # a validator's error would end the queue's thread here
            raise_outcome(error)


@contextmanager
def _run_by(workflow: Workflow[..., Any]) -> Iterator[None]:
    token = _running.set(workflow)
    try:
        yield
    finally:
        _running.reset(token)
