"""Which state of an object survives a restart: counters in an instance, a class, a module, and a durable one.

A step's result is stored, its changes to memory are not. After a crash, the workflow's body runs again from
the top, and stored steps return their results without running. So a counter that a *step* increments in
memory starts again, and a counter that the *body* computes from results is complete.
"""

from __future__ import annotations

import time
from typing import Any, TypedDict

from dbos import DBOS, DBOSConfiguredInstance

from holdfast.runtime import resources, timed_step
from holdfast.settings import Settings
from services.api.scope.declaration import CLASS_SCOPE, FUNCTION_SCOPE, INSTANCE_NAMES, INSTANCE_SCOPE


class StepReport(TypedDict):
    """The record of a step whose body ran: the executor, and the counters in that process's memory."""

    index: int
    executor_id: str
    instance: int
    class_: int
    module: int


# The steps whose bodies ran in this process, by workflow. All other steps were replayed.
_ran_here: dict[str, set[int]] = {}
_module_counter = 0


def _ran(index: int, *, instance: int, class_: int) -> StepReport:
    global _module_counter  # noqa: PLW0603
    _module_counter += 1
    workflow_id = DBOS.workflow_id or ""
    _ran_here.setdefault(workflow_id, set()).add(index)
    return StepReport(
        index=index,
        executor_id=resources().executor_id,
        instance=instance,
        class_=class_,
        module=_module_counter,
    )


def _report(scope: str, reports: list[StepReport], *, instance: int, class_: int) -> dict[str, Any]:
    ran_here = _ran_here.pop(DBOS.workflow_id or "", set())
    executors: dict[str, list[int]] = {}
    for report in reports:
        executors.setdefault(report["executor_id"], []).append(report["index"])
    return {
        "scope": scope,
        "workflow_id": DBOS.workflow_id,
        "finished_by": resources().executor_id,
        "steps": len(reports),
        "counters": {
            "durable": len(reports),
            "instance": instance,
            "class": class_,
            "module": _module_counter,
        },
        "executors": executors,
        "replayed_steps": [r["index"] for r in reports if r["index"] not in ran_here],
        "steps_run_here": sorted(ran_here),
    }


@DBOS.dbos_class()
class ClassScope:
    """An ordinary object, created for each execution: its state lives as long as that execution."""

    runs: int = 0
    """Steps run by all instances in this process."""

    def __init__(self) -> None:
        self.count = 0

    @DBOS.step(name="scope.class.step")
    def work(self, index: int, step_seconds: float) -> StepReport:
        """One step of the instance. Sleeps ``step_seconds``, then counts in the object and in the class."""
        with timed_step("scope.class.step"):
            time.sleep(step_seconds)
            self.count += 1
            type(self).runs += 1
            return _ran(index, instance=self.count, class_=type(self).runs)

    @staticmethod
    @DBOS.workflow(name=CLASS_SCOPE.name, max_recovery_attempts=None)
    def run(steps: int, step_seconds: float) -> dict[str, Any]:
        """Runs ``steps`` steps of a new instance and reports the value of each counter."""
        this = ClassScope()
        reports = [this.work(index, step_seconds) for index in range(steps)]
        return _report("class", reports, instance=this.count, class_=ClassScope.runs)


@DBOS.dbos_class()
class InstanceScope(DBOSConfiguredInstance):
    """A configured instance, created before launch. Its name is stored, its attributes are not.

    All workflows of one name share the object of their process. Attributes are configuration, and a counter
    in one is shared memory that a restart resets.
    """

    runs: int = 0

    def __init__(self, config_name: str) -> None:
        self.count = 0
        super().__init__(config_name=config_name)

    @DBOS.step(name="scope.instance.step")
    def work(self, index: int, step_seconds: float) -> StepReport:
        """One step of the configured instance. Sleeps ``step_seconds``, then counts."""
        with timed_step("scope.instance.step"):
            time.sleep(step_seconds)
            self.count += 1
            type(self).runs += 1
            return _ran(index, instance=self.count, class_=type(self).runs)

    @DBOS.workflow(name=INSTANCE_SCOPE.name, max_recovery_attempts=None)
    def run(self, steps: int, step_seconds: float) -> dict[str, Any]:
        """Runs ``steps`` steps of this configured instance and reports the value of each counter."""
        reports = [self.work(index, step_seconds) for index in range(steps)]
        report = _report("instance", reports, instance=self.count, class_=InstanceScope.runs)
        return {**report, "name": self.config_name}


@DBOS.step(name="scope.function.step")
def function_step(index: int, step_seconds: float) -> StepReport:
    """One step that counts in a variable of the module."""
    with timed_step("scope.function.step"):
        time.sleep(step_seconds)
        return _ran(index, instance=0, class_=0)


@DBOS.workflow(name=FUNCTION_SCOPE.name, max_recovery_attempts=None)
def function_scope(steps: int, step_seconds: float) -> dict[str, Any]:
    """Function scope: there is no object, only the module's counter and the durable one."""
    reports = [function_step(index, step_seconds) for index in range(steps)]
    return _report("function", reports, instance=0, class_=0)


def build_instances() -> None:
    """Creates the configured instances. Runs before the launch, so that stored work finds them by name."""
    for name in INSTANCE_NAMES:
        InstanceScope(name)


def start(settings: Settings) -> None:  # noqa: ARG001
    """Prepares the process before its launch."""
    build_instances()
