"""Creates random secrets once: ``python -m holdfast.installations.secrets [ROOT]``.

Each consumer has its own directory (in Compose a volume) and cannot read the others:

=============  =====================================================================================
``postgres/``  ``superuser`` (the password), ``ROLE.scram``: verifiers, of no use for logging in
``migrate/``   ``pgpass``
``api/``       ``pgpass``, ``admin_token``, ``upstream_credential``
``worker/``    ``pgpass``, ``s3_credentials`` (with the right to list)
``s3/``        ``s3.json``: the identities that the S3 server of Compose's profile s3 accepts
``seed/``      ``s3_credentials`` (with the right to write, too)
``grafana/``   ``admin_password``
``apps/NAME/`` ``pgpass`` of a user's application that HOLDFAST_APPLICATIONS names
=============  =====================================================================================

A second run changes nothing. Missing files (after an interrupted first run or a deleted volume) are created
again, and verifiers are derived from the passwords, so that the directories agree after every complete run.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from holdfast.installations.application_names import ApplicationError, names_in, role_of

CONSUMERS = {
    "migrate": ("holdfast_migrator",),
    "api": ("holdfast_api", "holdfast_metrics"),
    "worker": ("holdfast_worker",),
}
TOKENS = ("admin_token", "upstream_credential")
# In Compose's volumes they are readable for all, because other images run as other users: only the volumes'
# mounts limit access. The image prepares these directories. Elsewhere they are the owner's, like all others.
FOREIGN = ("postgres/superuser", "grafana/admin_password")
# The S3 server's identities: name, which is the access key, and rights, by directory of the credentials.
S3_IDENTITIES = {
    "worker": ("holdfast-worker", ["List", "Read"]),
    "seed": ("holdfast-seed", ["Admin", "List", "Read", "Write"]),
}
_S3_FILE = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
_ITERATIONS = 4096


def make_secrets(root: Path, applications: Sequence[str] = ()) -> list[Path]:
    """Creates the missing files below ``root`` and returns the written ones. Idempotent.

    ``applications`` are names of users' applications. Raises ``OSError`` if a directory cannot be written.
    """
    written: list[Path] = []

    def write(path: Path, text: str, mode: int) -> None:
        write_whole(path, text, mode)
        written.append(path)

    consumers = CONSUMERS | {f"apps/{name}": (role_of(name),) for name in applications}
    _make_directories(
        root, ["postgres", "grafana", "s3", "seed", *(["apps"] if applications else []), *consumers]
    )
    for consumer, roles in consumers.items():
        passfile = root / consumer / "pgpass"
        known = read_passfile(passfile)
        passwords = {role: known.get(role) or secrets.token_hex(24) for role in roles}
        if passwords != known:
            # libpq ignores a password file that other users can read.
            write(passfile, "".join(f"*:*:*:{role}:{word}\n" for role, word in passwords.items()), 0o600)
        for role, password in passwords.items():
            verifier = root / "postgres" / f"{role}.scram"
            if not _matches(password, _read(verifier)):
                write(verifier, scram_verifier(password, secrets.token_bytes(16)) + "\n", 0o444)
    for name in TOKENS:
        if not _read(root / "api" / name):
            write(root / "api" / name, secrets.token_urlsafe(32) + "\n", 0o600)
    identities = []
    for directory, (name, actions) in S3_IDENTITIES.items():
        file = root / directory / "s3_credentials"
        if not _read(file):
            write(file, _S3_FILE.format(name, secrets.token_urlsafe(30)), 0o600)
        keys = {"accessKey": name, "secretKey": _read(file).rpartition(" = ")[2]}
        identities.append({"name": name, "credentials": [keys], "actions": actions})
    known_to_s3 = json.dumps({"identities": identities}, indent=1)
    if _read(root / "s3" / "s3.json") != known_to_s3:
        write(root / "s3" / "s3.json", f"{known_to_s3}\n", 0o600)
    for name in FOREIGN:
        if not _read(root / name):
            is_private = not (root / name).parent.stat().st_mode & 0o077
            write(root / name, secrets.token_hex(24) + "\n", 0o600 if is_private else 0o444)
    return written


def _make_directories(root: Path, names: Sequence[str]) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid == os.geteuid():  # in a container it is the image's, and only holds volumes
        root.chmod(0o700)
    for name in names:
        (root / name).mkdir(mode=0o700, exist_ok=True)


def scram_verifier(password: str, salt: bytes) -> str:
    """Returns the verifier that PostgreSQL stores for a password of plain ASCII (RFC 5803)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    in_base64 = [base64.b64encode(part).decode("ascii") for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{in_base64[0]}${in_base64[1]}:{in_base64[2]}"


def _matches(password: str, verifier: str) -> bool:
    parts = verifier.replace("$", ":").split(":")
    return len(parts) == 5 and hmac.compare_digest(
        scram_verifier(password, base64.b64decode(parts[2])), verifier
    )


def read_passfile(path: Path) -> dict[str, str]:
    lines = [line.split(":") for line in _read(path).splitlines()]
    return {parts[3]: parts[4] for parts in lines if len(parts) == 5}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def write_whole(path: Path, text: str, mode: int) -> None:
    """Writes atomically: a reader, or a run after a crash, sees either nothing or the whole file."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main() -> None:
    """Creates the secrets below the given directory and prints their names, never their values."""
    from holdfast.settings import Settings

    root = Path(sys.argv[1] if len(sys.argv) > 1 else "/secrets")
    # The API checks it, too, but there the restart policy would retry for ever while `up --wait` waits.
    refusal = Settings(admin_token_file=root / "api" / "admin_token").refusal
    if refusal is not None:
        sys.exit(refusal)
    try:
        written = make_secrets(root, names_in(os.environ.get("HOLDFAST_APPLICATIONS", "")))
    except ApplicationError as error:
        sys.exit(f"HOLDFAST_APPLICATIONS: {error}")
    names = ", ".join(str(path.relative_to(root)) for path in written)
    print(f'{{"level": "INFO", "logger": "secrets", "message": "{names or "all there already"}"}}')


if __name__ == "__main__":
    main()
