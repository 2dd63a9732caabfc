"""The durable names of the Fibonacci batches, and their queues."""

from typing import Final

from holdfast import DbosWorkflow, Queue, register
from services.worker.poison.declaration import POISON

BATCH: Final = DbosWorkflow("fibonacci.batch", label="batch")
SEQUENCE: Final = DbosWorkflow("fibonacci.sequence", label="batch, in turn")
NUMBER: Final = DbosWorkflow("fibonacci.number", label_with_input="fib({0})")

BATCH_QUEUE: Final = Queue("fibonacci-batches", [BATCH], at_once=32, parents=True)
# Greedy claims would leave the last numbers to one worker while the other idles.
NUMBER_QUEUE: Final = Queue("fibonacci", [NUMBER, POISON], at_once=lambda settings: settings.fibonacci_claims)
# Each sequence computes one number at a time and shares the CPUs with the number queue.
SEQUENCE_QUEUE: Final = Queue(
    "fibonacci-sequences", [SEQUENCE], at_once=lambda settings: settings.fibonacci_claims
)
register(
    BATCH_QUEUE,
    NUMBER_QUEUE,
    SEQUENCE_QUEUE,
    steps=["fibonacci.enqueue", "fibonacci.compute", "fibonacci.collect"],
)
