"""Where files of the native stack are: outside the checkout what the server's user cannot reach in it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from holdfast.installations.native_error import NativeError


def elsewhere(home: Path) -> Path:
    """Returns the directory that ``home`` records. Creates and records a new one if there is no record.

    A new one has a new name: the data of a deleted ``home`` cannot be used without its passwords. They stay
    where they are, and a line says so.
    """
    noted = home / "postgres-place"
    if noted.exists():
        place = Path(noted.read_text("utf-8").strip())
        place.mkdir(mode=0o711, exist_ok=True)  # a reboot may have emptied the temporary directory
    else:
        key = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
        prefix = f"holdfast-{key}"
        for left in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
            print(f"{left} has the data of an earlier {home} that was deleted: delete it if nothing needs it")
        place = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
    # Another user may have created a directory with this name.
    if place.is_symlink() or place.stat().st_uid != os.geteuid():
        raise NativeError(f"{place} belongs to somebody else: remove it")
    place.chmod(0o711)  # independent of the umask
    noted.write_text(f"{place}\n", "utf-8")
    return place


def path_in_url(path: str | Path) -> str:
    """Returns a path as dbos-config.yaml puts it into a URL: a folder's name may have spaces, % and &."""
    return quote(os.fsencode(path), safe="/")
