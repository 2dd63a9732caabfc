"""The durable names of class, instance and function scope, and their queue."""

from typing import Final

from holdfast import DbosWorkflow, Queue, register

CLASS_SCOPE: Final = DbosWorkflow(
    "ClassScope.run", label="scope: class", label_with_input="scope: class, {0} steps"
)
INSTANCE_SCOPE: Final = DbosWorkflow("InstanceScope.run", label="scope: instance", label_with_instance=True)
FUNCTION_SCOPE: Final = DbosWorkflow(
    "scope.function", label="scope: function", label_with_input="scope: function, {0} steps"
)
INSTANCE_NAMES: Final = ("alpha", "beta")

QUEUE: Final = Queue("scope", [CLASS_SCOPE, INSTANCE_SCOPE, FUNCTION_SCOPE], at_once=32)
register(QUEUE, steps=["scope.class.step", "scope.instance.step", "scope.function.step"], role="api")
