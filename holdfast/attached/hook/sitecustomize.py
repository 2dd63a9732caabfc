"""Python runs this file at the start of every process below ``holdfast run``: its folder is on PYTHONPATH.

It attaches Holdfast when the process imports ``dbos``, and costs other processes nothing. Then it runs the
``sitecustomize`` that this file hides, if the environment has one.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

_HERE = os.path.realpath(os.path.dirname(__file__))


class _AttachingLoader:
    """Loads ``dbos`` with its own loader, then attaches Holdfast."""

    def __init__(self, loader: Any, finder: Any) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        try:
            from holdfast.attached.attach import attach
        except ImportError as error:
            if os.environ.get("HOLDFAST_REQUIRED", "").lower() in ("1", "true", "yes", "on"):
                raise
            print(
                "holdfast run: this application runs without protection, because its Python ("
                + sys.executable
                + ") lacks "
                + str(error.name)
                + ": install holdfast-dbos there",
                file=sys.stderr,
            )
        else:
            attach()


class _Finder:
    """Finds ``dbos`` where the other finders find it, until it is loaded: a search alone loads nothing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "dbos":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        found: Any = next((spec for each in others if (spec := each.find_spec(name, path, target))), None)
        if found is not None and found.loader is not None:
            found.loader = _AttachingLoader(found.loader, self)
        return found


def _run_hidden_one() -> None:
    """Imports the ``sitecustomize`` of the environment, which comes after this folder on the path."""
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != _HERE]
    sys.path_importer_cache.pop(_HERE, None)
    this = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        if this is not None:
            sys.modules["sitecustomize"] = this


sys.meta_path.insert(0, _Finder())
_run_hidden_one()
