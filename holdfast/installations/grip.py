"""A grip on the processes of what runs here: the demo kills, pauses and revives them with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from holdfast.installations.installation import NothingRunsError, compose, kind, native_state


@dataclass(frozen=True)
class Member:
    """One executor's process."""

    executor_id: str
    role: str
    name: str
    """Pid, or name of the container."""


class Grip(ABC):
    """Signals for the members of one installation."""

    def members(self, role: str, executors: list[dict[str, Any]]) -> list[Member]:
        """The live members of a role among the API's ``executors``."""
        live = [row for row in executors if row["state"] == "live" and row["role"] == role]
        names = self._names(live)
        return [
            Member(r["executor_id"], role, names[r["executor_id"]]) for r in live if r["executor_id"] in names
        ]

    @abstractmethod
    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Names of their processes by executor id, of those that run here."""

    @abstractmethod
    def kill(self, member: Member) -> None:
        """SIGKILL."""

    @abstractmethod
    def pause(self, member: Member) -> None:
        """Freeze it."""

    @abstractmethod
    def resume(self, member: Member) -> None:
        """Let it go on."""

    @abstractmethod
    def revive(self, member: Member) -> None:
        """Start again what `kill` ended, where nothing else does."""


class NativeGrip(Grip):
    """Plain processes: the supervisor starts again whatever ends."""

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        state = native_state()
        pids = {entry["pid"] for entry in [state["api"], *state["workers"]]}
        return {row["executor_id"]: str(row["pid"]) for row in rows if row["pid"] in pids}

    def kill(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGKILL)

    def pause(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGSTOP)

    def resume(self, member: Member) -> None:
        os.kill(int(member.name), signal.SIGCONT)

    def revive(self, member: Member) -> None:
        pass


class ComposeGrip(Grip):
    """Containers: ``docker kill`` counts as a manual stop, so no restart policy brings them back."""

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        lines = compose("ps", "--format", "json", "api", "worker").stdout.splitlines()
        # A hostname is the first twelve digits of the container's id.
        containers = {entry["ID"][:12]: entry["Name"] for entry in map(json.loads, lines)}
        return {
            row["executor_id"]: containers[row["hostname"]] for row in rows if row["hostname"] in containers
        }

    def kill(self, member: Member) -> None:
        _docker("kill", member.name)

    def pause(self, member: Member) -> None:
        _docker("pause", member.name)

    def resume(self, member: Member) -> None:
        _docker("unpause", member.name)

    def revive(self, member: Member) -> None:
        _docker("start", member.name)


def _docker(order: str, name: str) -> None:
    done = subprocess.run(["docker", order, name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NothingRunsError(f"docker {order} {name}: {done.stderr.strip()}")


def grip() -> Grip:
    """The grip on what runs here. Raises ``NothingRunsError``."""
    match kind():
        case "native":
            return NativeGrip()
        case "compose":
            return ComposeGrip()
        case _:
            raise NothingRunsError("run this on the machine that Holdfast runs on, not inside a container")
