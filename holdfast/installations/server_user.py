"""The user that PostgreSQL runs as if this process is root."""

from __future__ import annotations

import pwd
import subprocess
from contextlib import suppress

_USER = "holdfast_postgres"


def unprivileged_user() -> pwd.struct_passwd:
    """Returns the server's user. Creates it if it is missing, or returns ``nobody`` if that is impossible."""
    if not any(entry.pw_name == _USER for entry in pwd.getpwall()):
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/", "--shell", "/bin/false"]
        with suppress(OSError):
            subprocess.run(["useradd", *options, _USER], check=False, capture_output=True)
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        return pwd.getpwnam("nobody")
