"""What deploy/kubernetes takes for granted of the image, tried in a container locked down as its pods are."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.support.stack import ROOT

pytestmark = pytest.mark.container

_CONNECT = """
import sys, psycopg2
try:
    psycopg2.connect(host="127.0.0.1", port=1, user="holdfast_api", dbname="x", passfile=sys.argv[1])
except psycopg2.OperationalError:
    pass
"""
_REFUSED = "has group or world access"


def pod(image: str, secret: Path, shell: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell where a Secret lies as a pod's: readable for more than its owner."""
    locked = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
    # As the kubelet makes an emptyDir: a directory that everybody may write to.
    empty = Path(tempfile.mkdtemp(dir=secret.parent))
    empty.chmod(0o777)
    mounts = ["--volume", f"{secret}:/run/secrets/holdfast/pgpass:ro", "--volume", f"{empty}:/run/holdfast"]
    user = ["--user", "10001:10001"]
    return subprocess.run(
        ["docker", "run", "--rm", *locked, *mounts, *user, image, "sh", "-euc", shell],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_init_container_makes_a_password_file_that_libpq_takes(image: str, tmp_path: Path) -> None:
    secret = tmp_path / "pgpass"
    secret.write_text("*:*:*:holdfast_api:word\n", "ascii")
    secret.chmod(0o444)
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "api.yaml").read_text("utf-8"))
    spec = next(documents)["spec"]["template"]["spec"]
    command = spec["initContainers"][0]["command"]
    connect = f"python -c '{_CONNECT}'"
    there = pod(image, secret, f"{connect} {command[-2]}")
    assert there.returncode == 0 and _REFUSED in there.stderr, "then no copy would be needed"
    copied = pod(
        image, secret, f"{' '.join(command)}; stat -c '%a %u' {command[-1]}; {connect} {command[-1]}"
    )
    assert copied.returncode == 0, copied.stderr
    assert copied.stdout.strip() == "600 10001"
    assert _REFUSED not in copied.stderr
