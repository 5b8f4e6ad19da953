"""An Alembic environment that creates what each service needs; ``dbsplit plan render``.

The statements are those that `prepare` and `copy` run, made by the same code.  A
rendering is data first (`compose`): the same bytes for the same plan, catalog and
servers.  Writing it (`write`) never touches a file that it did not write itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from cdc.connect import Connection, connect
from plans.catalog import TableName
from plans.check_boundary import check_foreign_keys
from plans.check_subject import Subject
from plans.errors import NotReady, PlanInvalid
from plans.findings import Severity
from plans.load import Targets
from plans.schema.ddl import LeftOut
from toolkit.migrations import VERSION_TABLE
from toolkit.opened import Split, open_split
from toolkit.rendering import text
from toolkit.rendering.handwritten import Handwritten, following
from toolkit.rendering.text import ServiceTree
from toolkit.revisions import revision_ids, scripts_of
from toolkit.target_server import TargetServer, ask_server, schema_of

MANIFEST = "rendered.json"
_COPIED = ("env.py", "script.py.mako")
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Rendering:
    """All files of an environment, by their paths below its directory, and what is in them."""

    files: Mapping[str, bytes]
    services: tuple[ServiceTree, ...]


def render_plan(path: Path) -> Rendering:
    """The environment for the plan at `path`.

    Raises PlanInvalid for a plan whose schemas cannot be made, NotReady if the source does
    not answer.
    """
    split = open_split(path, with_targets=False, prepared=False, dsns=Targets.IF_SET)
    _require_renderable(split)
    with connect(split.plan.source.dsn, name="dbsplit render") as source:
        return compose(split, source)


def compose(split: Split, source: Connection) -> Rendering:
    """The environment; targets are asked what they are, and may be out of reach."""
    trees: list[ServiceTree] = []
    found: dict[str, bytes] = {}
    for service in split.plan.services:
        tree, parts = _service(split, source, service)
        trees.append(tree)
        found |= {f"{service}/{path}": content for path, content in parts.items()}
    for name in _COPIED:
        found[name] = (files("toolkit.rendering") / "environment" / name).read_bytes()
    found["alembic.ini"] = text.ini(trees).encode()
    found["README.md"] = text.readme(split.plan.path.name, split.name, trees).encode()
    said = {
        "written_by": f"dbsplit {version('dbsplit')}",
        "split": split.name,
        "plan_digest": split.plan.digest,
        "services": {tree.service: tree.as_dict() for tree in trees},
        "files": {path: hashlib.sha256(found[path]).hexdigest() for path in sorted(found)},
    }
    found[MANIFEST] = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()
    return Rendering(found, tuple(trees))


def write(rendering: Rendering, directory: Path, *, force: bool) -> None:
    """Write all files, and remove those of an earlier rendering that are no longer part of it.

    Without `force`, NotReady if `directory` holds files that no rendering wrote, or one that
    was changed since; nothing is written then.  Files of others are never removed.
    """
    earlier = _manifest(directory)
    strange = sorted(_strange(directory, earlier))
    if strange and not force:
        shown = ", ".join(strange[:_SHOWN_MAX]) + (", …" if len(strange) > _SHOWN_MAX else "")
        raise NotReady(
            f"{directory} holds {len(strange)} file{'s' if len(strange) > 1 else ''}"
            f" that dbsplit did not write, or not like that: {shown}",
            hint="name a new directory; --force overwrites what has the same name, and leaves"
            " the rest",
        )
    for path in earlier.keys() - rendering.files.keys():
        (directory / path).unlink(missing_ok=True)
    for path, content in rendering.files.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _manifest(directory: Path) -> dict[str, str]:
    """The files of the rendering that lies in `directory`, with their digests."""
    try:
        said = json.loads((directory / MANIFEST).read_bytes())
        return {str(path): str(digest) for path, digest in said["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _strange(directory: Path, earlier: Mapping[str, str]) -> Iterator[str]:
    for place in directory.rglob("*"):
        path = place.relative_to(directory).as_posix()
        if place.is_dir() or "__pycache__" in place.parts or (earlier and path == MANIFEST):
            continue
        if earlier.get(path) != hashlib.sha256(place.read_bytes()).hexdigest():
            yield path


def _require_renderable(split: Split) -> None:
    """Keys that the plan wants anew can be made; what else stands against it is no matter here."""
    subject = Subject.of(split.plan, split.catalog, split.routes)
    findings = check_foreign_keys(subject)
    blockers = [f"{f.place}: {f.message}" for f in findings if f.severity is Severity.BLOCKER]
    if blockers:
        raise PlanInvalid(
            "\n".join(blockers),
            hint=f"see all findings with `dbsplit plan check {split.plan.path}`",
        )


def _service(
    split: Split, source: Connection, service: str
) -> tuple[ServiceTree, dict[str, bytes]]:
    """A service's tree and its files, by their paths below the service's directory."""
    plan = split.plan.services[service]
    server, reached = _server(split, source, service)
    schema = schema_of(split, source, service, server)
    before, _ = revision_ids(service, split.plan.digest)
    own = following(plan.revisions, before) if plan.revisions else Handwritten()
    scripts = scripts_of(service, schema, split.plan.digest, own.heads)
    lacking = [
        LeftOut(f"grants to {role}", "there is no such role on the target's server")
        for role in plan.roles
        if role not in server.roles
    ]
    tree = ServiceTree(
        service=service,
        dsn=split.plan.dsns_written[service],
        version=server.version // 10_000,
        reached=reached,
        revisions=tuple(script.revision for script in scripts),
        handwritten=own.heads,
        statements=len(schema.before_data) + len(schema.after_data),
        left_out=(*schema.left_out, *lacking),
        version_table=_version_table(split, service),
    )
    found = {f"versions/{path.as_posix()}": content for path, content in own.files.items()}
    found |= {f"versions/{script.name}": script.text.encode() for script in scripts}
    found["LEFT_OUT.md"] = text.left_out(tree).encode()
    return tree, found


def _server(split: Split, source: Connection, service: str) -> tuple[TargetServer, bool]:
    """The target's server; if it is out of reach, one like the source's with the plan's roles."""
    plan = split.plan.services[service]
    like_source = TargetServer(source.info.server_version, frozenset(plan.roles), None)
    if service in split.plan.unset:
        return like_source, False
    try:
        return ask_server(plan.dsn), True
    except NotReady:
        return like_source, False


def _version_table(split: Split, service: str) -> str:
    """Where Alembic notes the revision: not in a table of that name that the service brings."""
    taken = TableName("public", VERSION_TABLE)
    brings = any(route.target == taken for route in split.routes_of([service]))
    return f"dbsplit_{VERSION_TABLE}" if brings else VERSION_TABLE
