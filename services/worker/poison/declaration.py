"""The durable names of the poison. It runs on the Fibonacci queue, among ordinary work."""

from typing import Final

from holdfast import DbosWorkflow, register

POISON: Final = DbosWorkflow("chaos.poison", label="poison")
register(steps=["chaos.kill_process"])
