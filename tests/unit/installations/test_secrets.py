"""The secrets are made once, agree with each other, and heal."""

from __future__ import annotations

import configparser
import json
import shutil
import stat
from pathlib import Path

import pytest

from holdfast.audit.evidence import secrets_in
from holdfast.installations.secrets import (
    CONSUMERS,
    S3_IDENTITIES,
    _matches,
    main,
    make_secrets,
    read_passfile,
    scram_verifier,
)


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text("ascii") for path in root.rglob("*") if path.is_file()
    }


def passwords(root: Path) -> dict[str, str]:
    lines = "".join((root / consumer / "pgpass").read_text("ascii") for consumer in CONSUMERS).splitlines()
    return {line.split(":")[3]: line.split(":")[4] for line in lines}


def assert_agreement(root: Path) -> None:
    found = passwords(root)
    assert set(found) == {role for roles in CONSUMERS.values() for role in roles}
    for role, password in found.items():
        assert len(password) == 48
        assert _matches(password, (root / "postgres" / f"{role}.scram").read_text("ascii").strip()), role


def test_first_run_makes_all_and_the_second_changes_nothing(tmp_path: Path) -> None:
    assert make_secrets(tmp_path)
    assert_agreement(tmp_path)
    before = contents(tmp_path)
    assert make_secrets(tmp_path) == []
    assert contents(tmp_path) == before
    assert len(set(passwords(tmp_path).values())) == 4


def test_only_the_owner_reads_what_lets_one_in(tmp_path: Path) -> None:
    """Also below a directory that others may read, as for Kubernetes. A verifier is no password."""
    tmp_path.chmod(0o755)
    make_secrets(tmp_path, ["shop"])
    for path in (tmp_path, *tmp_path.rglob("*")):
        private = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == (0o444 if path.suffix == ".scram" else private), path


def test_other_images_users_read_their_volume(tmp_path: Path) -> None:
    """The image prepares the directories: who may read a volume is said by who mounts it."""
    for directory in ("postgres", "grafana"):
        (tmp_path / directory).mkdir(mode=0o755)
    make_secrets(tmp_path)
    for path in (tmp_path / "postgres" / "superuser", tmp_path / "grafana" / "admin_password"):
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o444, 0o755]


def s3_secrets(root: Path) -> dict[str, str]:
    read = configparser.ConfigParser()
    found = {}
    for directory, (name, _) in S3_IDENTITIES.items():
        read.read_string((root / directory / "s3_credentials").read_text("ascii"))
        assert read["default"]["aws_access_key_id"] == name
        found[name] = read["default"]["aws_secret_access_key"]
    return found


@pytest.mark.parametrize("lost", ["worker", "seed", "s3"])
def test_the_s3_server_knows_the_credentials(tmp_path: Path, lost: str) -> None:
    def known() -> dict[str, str]:
        identities = json.loads((tmp_path / "s3" / "s3.json").read_text("ascii"))["identities"]
        return {one["name"]: one["credentials"][0]["secretKey"] for one in identities}

    make_secrets(tmp_path)
    assert known() == s3_secrets(tmp_path)
    before = known()
    shutil.rmtree(tmp_path / lost)
    make_secrets(tmp_path)
    assert known() == s3_secrets(tmp_path)
    changed = {name for name, secret in known().items() if secret != before[name]}
    assert changed == ({S3_IDENTITIES[lost][0]} if lost in S3_IDENTITIES else set())
    text = (tmp_path / "worker" / "s3_credentials").read_text("ascii")
    assert secrets_in(text) == {s3_secrets(tmp_path)["holdfast-worker"]}, "what no log may hold"


def test_the_database_gets_no_password_of_a_role(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    known_to_postgres = "".join(path.read_text("ascii") for path in (tmp_path / "postgres").iterdir())
    assert not [role for role, password in passwords(tmp_path).items() if password in known_to_postgres]


@pytest.mark.parametrize("lost", ["postgres", "migrate", "api", "worker", "grafana"])
def test_a_lost_directory_is_made_again_and_the_others_stay(tmp_path: Path, lost: str) -> None:
    make_secrets(tmp_path)
    before = passwords(tmp_path)
    shutil.rmtree(tmp_path / lost)
    make_secrets(tmp_path)
    assert_agreement(tmp_path)
    after = passwords(tmp_path)
    changed = {role for role in after if after[role] != before[role]}
    assert changed == set(CONSUMERS.get(lost, ()))


def test_an_interrupted_first_run_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of files written before the crash, the next run ends with all in agreement."""
    from holdfast.installations import secrets

    write = secrets.write_whole
    for survived in range(len(make_secrets(tmp_path / "whole"))):
        root = tmp_path / str(survived)
        left = survived

        def dying(path: Path, text: str, mode: int) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            write(path, text, mode)

        monkeypatch.setattr(secrets, "write_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            make_secrets(root)
        monkeypatch.undo()
        make_secrets(root)
        assert_agreement(root)
        assert set(contents(root)) == set(contents(tmp_path / "whole"))


def test_the_verifier_is_the_one_of_rfc_7677() -> None:
    """The RFC's example: user ``user``, password ``pencil``."""
    import base64

    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    stored_key, server_key = scram_verifier("pencil", salt).split("$")[2].split(":")
    assert stored_key == "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    assert server_key == "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="


def test_each_application_has_a_password_of_its_own(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = contents(tmp_path)
    assert len(make_secrets(tmp_path, ["storefront", "billing"])) == 4
    assert contents(tmp_path).items() >= before.items(), "the stack's stay"
    words = set()
    for name in ("storefront", "billing"):
        passfile = tmp_path / "apps" / name / "pgpass"
        assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
        (role, password), *others = read_passfile(passfile).items()
        assert (role, others) == (f"holdfast_app_{name}", [])
        verifier = tmp_path / "postgres" / f"{role}.scram"
        assert _matches(password, verifier.read_text("ascii").strip())
        words.add(password)
    assert len(words) == 2
    assert make_secrets(tmp_path, ["storefront"]) == []
    assert (tmp_path / "apps" / "billing" / "pgpass").exists(), "what was made stays"


def test_the_setting_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["secrets", str(tmp_path)])
    monkeypatch.setenv("HOLDFAST_APPLICATIONS", "storefront, Ops")
    with pytest.raises(SystemExit, match="HOLDFAST_APPLICATIONS: 'Ops' cannot be an application's name"):
        main()
    assert list(tmp_path.iterdir()) == [], "refused before anything is made"
    monkeypatch.setenv("HOLDFAST_APPLICATIONS", " storefront,")
    main()
    assert [path.name for path in (tmp_path / "apps").iterdir()] == ["storefront"]
