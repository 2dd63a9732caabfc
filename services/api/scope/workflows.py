"""What of an object survives a restart: counters in an instance, a class, a module, and a durable one.

A step's result is stored; nothing that it did to memory is. After a crash the workflow's body runs
again from the top, stored steps return their results without running, so whatever a *step* counted
in memory starts again, and whatever the *body* counted from results is complete.
"""

from __future__ import annotations

import time
from typing import Any, TypedDict

from dbos import DBOS, DBOSConfiguredInstance

from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import resources
from holdfast.settings import Settings
from services.api.scope.declaration import CLASS_SCOPE, FUNCTION_SCOPE, INSTANCE_NAMES, INSTANCE_SCOPE


class StepReport(TypedDict):
    """What a step recorded when its body ran: who ran it, and what the memory of that process had counted."""

    index: int
    executor_id: str
    instance: int
    class_: int
    module: int


# Steps whose bodies ran in this process, by workflow: what is not in here was replayed.
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
    """An ordinary object, made anew for every execution: its state lives as long as that execution."""

    runs: int = 0
    """Steps run by any instance in this process."""

    def __init__(self) -> None:
        self.count = 0

    @DBOS.step(name="scope.class.step")
    def work(self, index: int, step_seconds: float) -> StepReport:
        """One step inside the instance: sleeps ``step_seconds`` and counts in the object and the class."""
        with timed_step("scope.class.step"):
            time.sleep(step_seconds)
            self.count += 1
            type(self).runs += 1
            return _ran(index, instance=self.count, class_=type(self).runs)

    @staticmethod
    @DBOS.workflow(name=CLASS_SCOPE.name, max_recovery_attempts=None)
    def run(steps: int, step_seconds: float) -> dict[str, Any]:
        """Runs ``steps`` steps of an instance made here and reports what each counter counted."""
        with measured(CLASS_SCOPE.name):
            this = ClassScope()
            reports = [this.work(index, step_seconds) for index in range(steps)]
            return _report("class", reports, instance=this.count, class_=ClassScope.runs)


@DBOS.dbos_class()
class InstanceScope(DBOSConfiguredInstance):
    """A configured instance: built before launch under a name that is stored, its attributes are not.

    All workflows of one name share the object of their process: attributes are configuration, and
    a counter in one is shared memory that a restart empties.
    """

    runs: int = 0

    def __init__(self, config_name: str) -> None:
        self.count = 0
        super().__init__(config_name=config_name)

    @DBOS.step(name="scope.instance.step")
    def work(self, index: int, step_seconds: float) -> StepReport:
        """One step inside the configured instance: sleeps ``step_seconds`` and counts."""
        with timed_step("scope.instance.step"):
            time.sleep(step_seconds)
            self.count += 1
            type(self).runs += 1
            return _ran(index, instance=self.count, class_=type(self).runs)

    @DBOS.workflow(name=INSTANCE_SCOPE.name, max_recovery_attempts=None)
    def run(self, steps: int, step_seconds: float) -> dict[str, Any]:
        """Runs ``steps`` steps of this configured instance and reports what each counter counted."""
        with measured(INSTANCE_SCOPE.name):
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
    with measured(FUNCTION_SCOPE.name):
        reports = [function_step(index, step_seconds) for index in range(steps)]
        return _report("function", reports, instance=0, class_=0)


def build_instances() -> None:
    """Builds the configured instances; before the launch, so that stored work finds them by name."""
    for name in INSTANCE_NAMES:
        InstanceScope(name)


def start(settings: Settings) -> None:  # noqa: ARG001
    """Before the process's launch."""
    build_instances()
