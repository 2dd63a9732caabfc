"""Public: the application that a process runs, and the start of a worker. ``holdfast.web`` starts an API.

An application consists of built-in modules, whose workflows every process knows: `load_builtin`. For each of
the two roles a `RegisteredWork` says which modules its processes run.
"""

from holdfast.durable.registry import load_builtin
from holdfast.process.registered_work import RegisteredWork
from holdfast.process.serve import serve
from holdfast.process.worker_app import create_app

__all__ = ["RegisteredWork", "load_builtin", "serve_worker"]


def serve_worker(application: RegisteredWork) -> None:
    """Runs a worker of an application until it is stopped. Exits with the process's exit code."""
    serve(application, create_app)
