"""The durable names of the nested workflows, and a queue for each level."""

from typing import Final

from holdfast import DbosWorkflow, Queue, register

ROOT: Final = DbosWorkflow("nesting.root", label="nested: root")
CHILD: Final = DbosWorkflow("nesting.child", label="nested: child")
GRANDCHILD: Final = DbosWorkflow("nesting.grandchild", label="nested: grandchild")

ROOT_QUEUE: Final = Queue("nested-roots", [ROOT], at_once=32, parents=True)
CHILD_QUEUE: Final = Queue("nested-children", [CHILD], at_once=32, parents=True)
GRANDCHILD_QUEUE: Final = Queue("nested-grandchildren", [GRANDCHILD], at_once=32)
register(ROOT_QUEUE, CHILD_QUEUE, GRANDCHILD_QUEUE, steps=["nesting.touch"], role="api")
