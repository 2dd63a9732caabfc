"""The durable names of the user pages, and their queues."""

from typing import Final

from holdfast import DbosWorkflow, Queue, register

PROCESS: Final = DbosWorkflow("users.process", label="users", label_with_input="users: {0} pages of {1}")
PAGE: Final = DbosWorkflow("users.page", label="users: page", label_with_input="users: page {0}")

# Parents and children have separate queues. Otherwise waiting parents would hold their children's slots.
QUEUE: Final = Queue("users", [PROCESS], at_once=32, parents=True)
PAGE_QUEUE: Final = Queue("user-pages", [PAGE], at_once=32)
register(QUEUE, PAGE_QUEUE, steps=["users.process_one"], role="api")
