"""A PostgreSQL as managed services give it: no superuser, and PgBouncer with TLS before it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.installations.embedded import ROOT, Cluster, installed
from holdfast.installations.ports import free_port
from holdfast.installations.secrets import make_secrets, scram_verifier
from holdfast.installations.server_user import unprivileged_user

ADMIN, PASSWORD = "managed_admin", "managed-password"
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = 100
max_client_conn = 400
ignore_startup_parameters = extra_float_digits,options
client_tls_sslmode = require
client_tls_key_file = {folder}/server.key
client_tls_cert_file = {folder}/server.crt
"""


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer, and the variables with which libpq authenticates it."""

    port: int
    tls: dict[str, str]


class ManagedServer:
    """``ADMIN`` has CREATEDB and CREATEROLE, and prepares everything."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="holdfast-managed-"))
        self.home.chmod(0o711)
        self.secrets = self.home / "secrets"
        make_secrets(self.secrets, ["shop"])
        (self.home / "logs").mkdir()
        self.cluster = Cluster(self.home, self.secrets)
        self.cluster.prepare()
        with (self.cluster.data / "postgresql.auto.conf").open("a") as file:
            file.write("fsync = off\n")
        self.cluster.start()
        verifier = scram_verifier(PASSWORD, b"salt of sixteen!")
        create = f"CREATE ROLE {ADMIN} LOGIN CREATEDB CREATEROLE PASSWORD '{verifier}'"
        password = (self.secrets / "postgres" / "superuser").read_text().strip()
        done = self.psql("--command", create, user="postgres", password=password)
        assert done.returncode == 0, done.stderr

    def psql(
        self, *words: str, user: str = ADMIN, password: str = PASSWORD, database: str = "postgres"
    ) -> subprocess.CompletedProcess[str]:
        """Runs psql as the administrator."""
        command = [installed() / "bin" / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        server = [
            "--host=127.0.0.1",
            f"--port={self.cluster.port}",
            f"--username={user}",
            f"--dbname={database}",
        ]
        own = {"PGPASSWORD": password, "HOLDFAST_ROLE_SECRETS": str(self.secrets / "postgres")}
        return subprocess.run(
            [*command, *server, *words], env={**os.environ, **own}, capture_output=True, text=True
        )

    def environment(self, role: str, *, pooler: Pooler | None = None, **more: str) -> dict[str, str]:
        """Returns the environment of a process of that role: ``migrate``, ``api`` or ``worker``."""
        user = "holdfast_migrator" if role == "migrate" else f"holdfast_{role}"
        binaries = str(Path(sys.executable).parent)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "PG"))},
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "HOLDFAST_DATABASE_HOST": "localhost" if pooler else "127.0.0.1",
            "HOLDFAST_DATABASE_PORT": str(pooler.port if pooler else self.cluster.port),
            "HOLDFAST_DATABASE_NAME": "holdfast",
            "HOLDFAST_DATABASE_USER": user,
            "HOLDFAST_DATABASE_PASSFILE": str(self.secrets / role / "pgpass"),
            "HOLDFAST_ADMIN_TOKEN_FILE": str(self.secrets / "api" / "admin_token"),
            "HOLDFAST_API_PORT": "0",
            "HOLDFAST_WORKER_PORT": "0",
            **(pooler.tls if pooler else {}),
            **more,
        }

    def prepare(self) -> None:
        """Runs roles.sql as the administrator, and the migrations. Raises ``AssertionError``."""
        done = self.psql(f"--file={ROOT / 'postgres' / 'roles.sql'}")
        assert done.returncode == 0, done.stderr
        migrated = self.migrate(self.environment("migrate"))
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr

    def migrate(self, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs the stack's migration."""
        return subprocess.run(["dbos", "migrate"], cwd=ROOT, env=environment, capture_output=True, text=True)

    @contextmanager
    def pooler(self, mode: str) -> Iterator[Pooler]:
        """Runs PgBouncer in this mode, with TLS for its clients and the roles' own passwords."""
        assert PGBOUNCER is not None
        folder = Path(tempfile.mkdtemp(prefix="holdfast-pgbouncer-"))
        authority = certificate("localhost", folder, "server")
        port = free_port()
        text = _CONFIGURATION.format(server=self.cluster.port, port=port, folder=folder, mode=mode)
        (folder / "pgbouncer.ini").write_text(text)
        verifiers = (self.secrets / "postgres").glob("*.scram")
        users = "".join(f'"{file.stem}" "{file.read_text().strip()}"\n' for file in verifiers)
        (folder / "users.txt").write_text(users)
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644)
        options = {}
        if os.geteuid() == 0:  # which PgBouncer refuses, as PostgreSQL does
            user = unprivileged_user()
            os.chown(folder / "server.key", user.pw_uid, user.pw_gid)
            (folder / "server.key").chmod(0o600)
            options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [PGBOUNCER, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, **options
            )
            try:
                tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(authority)}
                yield Pooler(port, tls)
                assert process.poll() is None, (folder / "log").read_text()
            finally:
                process.kill()
                process.wait()
                shutil.rmtree(folder)

    def close(self) -> None:
        """Stops the server and deletes its data."""
        self.cluster.stop()
        self.cluster.remove()
        shutil.rmtree(self.home, ignore_errors=True)


def certificate(host: str, folder: Path, name: str) -> Path:
    """Makes a key and a certificate for a host that is its own authority, and returns the certificate."""
    key, made = folder / f"{name}.key", folder / f"{name}.crt"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command = ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made
