"""What a lock guards is used under that lock alone. The check reads the source: a race is too rare to run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Class: its lock; the attributes that it guards; methods that are called under it; methods that read one
# attribute without it, where an old value does no harm.
GUARDED: dict[str, tuple[str, str, str, str]] = {
    "_ProbeServer": ("_lock", "_open", "", ""),
    "Buckets": ("_lock", "_buckets", "", "__len__"),
    "Exposition": ("_lock", "_text _fresh_until", "", "fresh"),
    "AttachedProcess": ("_lock", "_is_closed", "", ""),
    "CpuPool": ("_changed", "_closed _children _waiting", "_dispatch", "_keep_slot _serve _reap"),
    "StepProcesses": ("_lock", "_launcher _numbers", "_channel _forget", ""),
    "DatabaseCollector": ("_lock", "_fresh_until _cached", "", ""),
    "OpsPool": ("_lock", "_free", "", "descriptors"),
    "Reach": ("_changed", "_returns back_at", "", ""),
    "Slots": ("_lock", "_executions _held _lost _abandoned", "_free", ""),
    "Waker": ("_lock", "_wake_events _exclusive_queue _exclusive_since", "", "*"),
    "Cancellation": ("_lock", "_cancelled _ends", "", "is_set"),
    "Cancellations": ("_lock", "_of _doubtful _noticed", "", ""),
    "EndCounter": ("_lock", "_seen _wanted", "", ""),
    "Endings": ("_lock", "_waiting", "", ""),
    "DirectRuns": ("_lock", "_contexts", "", ""),
    "Histories": ("_lock", "_known", "", "get"),
    "Watchdog": ("_lock", "_channel _child _session", "_send_session", "_run pid descriptors"),
    # These share the condition of Runs, and the table of executions that it guards.
    "Runs": ("changed", "by_key unshown", "settle", ""),
    "Waits": (
        "runs.changed",
        "runs.by_key runs.unshown runs.leaving runs.obsolete _followers",
        "",
        "goes_on",
    ),
    "Publisher": ("_runs.changed", "_runs.unshown _runs.leaving _runs.obsolete", "", ""),
}


def _classes() -> dict[str, ast.ClassDef]:
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "holdfast").rglob("*.py")]
    return {each.name: each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}


CLASSES = _classes()


def _touches(node: ast.AST, lock: str, locked: bool = False) -> list[tuple[str, bool, bool]]:
    """Every use of an attribute of ``self``: its dotted name, whether it changes, whether under the lock."""
    if isinstance(node, ast.With):
        inside = locked or any(ast.unparse(item.context_expr) == f"self.{lock}" for item in node.items)
        return [use for part in node.body for use in _touches(part, lock, inside)] + [
            use for item in node.items for use in _touches(item.context_expr, lock, locked)
        ]
    found = []
    if isinstance(node, ast.Attribute) and (text := ast.unparse(node)).startswith("self."):
        found.append((text.removeprefix("self."), not isinstance(node.ctx, ast.Load), locked))
    return found + [use for child in ast.iter_child_nodes(node) for use in _touches(child, lock, locked)]


@pytest.mark.parametrize("name", GUARDED)
def test_a_guarded_attribute_is_touched_under_its_lock(name: str) -> None:
    lock, attributes, under_it, reads = GUARDED[name]
    guarded = {*attributes.split(), *(f"settle runs.settle _runs.settle {under_it}".split())}
    seen = set()
    for method in CLASSES[name].body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.name == "__init__":
            continue
        for attribute, changed, locked in _touches(method, lock, method.name in under_it.split()):
            if attribute in guarded:
                seen.add(attribute)
                may_read = not changed and (reads == "*" or method.name in reads.split())
                assert locked or may_read, f"{name}.{method.name} touches {attribute} without {lock}"
    assert seen >= set(attributes.split()), "the table names what is not there"


def test_every_lock_is_in_the_table() -> None:
    with_lock = {
        name
        for name, each in CLASSES.items()
        if any(f"threading.{kind}(" in ast.unparse(each) for kind in ("Lock", "RLock", "Condition"))
    }
    assert with_lock == {name for name, (lock, *_) in GUARDED.items() if "." not in lock}
