"""``dbsplit plan``: what is done before anything is changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import DRY_RUN, FORMAT, JSON, PLAN, InOrder, require_dsn, writing
from toolkit.cli.talk import told

if TYPE_CHECKING:
    from plans.problems import PlanProblems


@click.group("plan", cls=InOrder)
def plan_group() -> None:
    """Make, read and check a plan."""


@plan_group.command("propose")
@click.option(
    "--source",
    required=True,
    envvar=["DBSPLIT_PLAN_PROPOSE_SOURCE", "DBSPLIT_SOURCE_DSN"],
    metavar="DSN",
    help="The shared database; DBSPLIT_SOURCE_DSN if not given.",
)
@click.option("--services", required=True, metavar="A,B", help="The services to split it into.")
@click.option(
    "--owners",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is known already: a YAML mapping of tables to services; always honoured.",
)
@click.option("--schema", "schemas", multiple=True, help="May be repeated; all if not given.")
@click.option(
    "--usage",
    multiple=True,
    metavar="[SERVICE=]PATH",
    help="PostgreSQL's logs, scripts, source code, or a directory of these; may be repeated.",
)
@click.option(
    "--roles",
    multiple=True,
    metavar="SERVICE=ROLE,ROLE",
    help="The roles a service logs in as; may be repeated.  By their names if not given.",
)
@click.option(
    "-o", "--output", default="plan.yaml", show_default=True, help="The plan's file; - to print it."
)
@click.option("--force", is_flag=True, help="Overwrite the plan's file.")
@JSON
def plan_propose(  # noqa: PLR0913 - a verb's options are its arguments
    *,
    source: str,
    services: str,
    owners: Path | None,
    schemas: tuple[str, ...],
    usage: tuple[str, ...],
    roles: tuple[str, ...],
    output: str,
    as_json: bool,
    force: bool,
) -> None:
    """Propose an owner for every table, from what is known of their use.

    Read are pg_stat_statements where it is installed, grants, keys and names, and what
    --usage names.  The plan's comments say why, and what a person has to decide.  Exit 3
    if `plan check` would block it; it is written nevertheless.

    \b
    dbsplit plan propose --source service=shared --services crm,shop -o plan.yaml
    dbsplit plan propose --services crm,shop --roles shop=shop_api,mes_api
    dbsplit plan propose --services crm,shop --usage shop=src/shop --usage /var/log/postgresql
    dbsplit plan propose --services crm,shop --owners owners.yaml -o - | less
    """
    with told(as_json=as_json) as talk:
        from toolkit.cli import propose

        require_dsn(source, "--source")
        propose.check_output(output, as_json=as_json, force=force)
        names = propose.service_names(services)
        passes = propose.propose_plan(
            talk,
            source,
            names,
            output,
            owners=owners,
            schemas=schemas,
            usage=propose.usage_paths(usage, names),
            roles=propose.role_services(roles, names),
        )
        if not passes:
            sys.exit(3)


@plan_group.command("check")
@PLAN
@JSON
@FORMAT
def plan_check(plan: Path, form: str, *, as_json: bool) -> None:
    """Say everything that stands against PLAN; exit 3 if something blocks it.

    \b
    dbsplit plan check plan.yaml
    dbsplit plan check plan.yaml --format github
    """
    with told(as_json=as_json) as talk:
        from dataclasses import asdict

        from cdc.connect import connect
        from plans.check import check_split
        from plans.findings import has_blocker
        from plans.findings_written import render_findings
        from plans.load import Targets, load_plan
        from plans.problems import PlanProblems
        from plans.sarif import repository_of
        from toolkit.cli.lists import lists_text, read_lists

        try:
            loaded = load_plan(plan, os.environ, targets=Targets.IF_SET)
        except PlanProblems as some:
            wrong = _all_problems(plan, some)
            _tell_problems(wrong, plan, form, as_json=as_json)
            raise wrong from None
        with connect(loaded.source.dsn, name="dbsplit check") as source:
            findings = check_split(loaded, source)
        lists = read_lists(loaded, source_only=True)
        if as_json:
            blocked = has_blocker(findings)
            talk.result(
                {"ok": not blocked, "findings": [asdict(one) for one in findings], "lists": lists},
                "",
            )
        else:
            click.echo(render_findings(findings, form, repository_of(plan)))  # type: ignore[arg-type]
            if form == "text":
                talk.show(lists_text(lists))
        if has_blocker(findings):
            sys.exit(3)


def _all_problems(plan: Path, wrong: PlanProblems) -> PlanProblems:
    """With what the source would say of the rest, if it answers."""
    from cdc.connect import connect
    from plans.check import also_wrong
    from plans.errors import NotReady
    from plans.load import without_wrong

    rest = without_wrong(plan, os.environ, wrong.problems)
    if rest is None:
        return wrong
    try:
        with connect(rest.source.dsn, name="dbsplit check") as source:
            return also_wrong(rest, wrong, source)
    except NotReady:
        return wrong


def _tell_problems(wrong: PlanProblems, plan: Path, form: str, *, as_json: bool) -> None:
    """Tell programs what keeps the plan from being read, as they are told of other findings."""
    from dataclasses import asdict

    from plans.findings import from_problem
    from plans.findings_written import render_findings
    from plans.sarif import repository_of

    findings = [from_problem(problem) for problem in wrong.problems]
    wrong.result = {"ok": False, "findings": [asdict(one) for one in findings], "lists": []}
    if not as_json and form != "text":
        click.echo(render_findings(findings, form, repository_of(plan)))  # type: ignore[arg-type]


@plan_group.command("refresh")
@PLAN
@JSON
@DRY_RUN
@click.option(
    "--owner",
    "owners",
    multiple=True,
    metavar="TABLE=SERVICE",
    help="Whose a new table is, or TABLE=drop; may be repeated.",
)
@click.option("--anew", multiple=True, metavar="TABLE", help="Copy this table anew; repeatable.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="TABLE.COLUMN=SERVICE",
    help="Which part gets a new column of a table split by column, or …=drop; may be repeated.",
)
def plan_refresh(
    plan: Path,
    owners: tuple[str, ...],
    columns: tuple[str, ...],
    anew: tuple[str, ...],
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Carry over what has changed in the source's schema, without a new copy of the rest.

    Writes the next revision of PLAN, changes the targets by Alembic revisions, and copies
    only tables that are new, or whose rows the change has rewritten.  The stream has to
    be stopped; start it again afterwards.  Repeating it after a crash is right.  Exit 3
    if something has to be decided first, 6 if what a moved service leads is not the same
    on both sides; it is named.

    \b
    dbsplit plan refresh plan.yaml --dry-run
    dbsplit plan refresh plan.yaml
    dbsplit plan refresh plan.yaml --owner invoices=billing --column customers.vat_id=crm
    """
    with told(as_json=as_json) as talk:
        from threading import Event

        from toolkit.cli.refresh import answers, refreshed_text
        from toolkit.evolving import refresh_patiently
        from toolkit.patience import Patience

        wanted = answers(owners, columns, anew)
        done = refresh_patiently(plan, wanted, talk.say, Event(), Patience(), dry_run=dry_run)
        outcome = "dry-run" if dry_run else "refreshed" if done.changes else "unchanged"
        talk.result({"outcome": outcome, **done.as_dict()}, refreshed_text(outcome, done, plan))


@plan_group.command("explain")
@PLAN
@JSON
@click.option("--sql", "with_sql", is_flag=True, help="With the statements of each stage.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write a page with a picture of the split, too.",
)
def plan_explain(plan: Path, html: Path | None, *, as_json: bool, with_sql: bool) -> None:
    """Say what `run` and the verbs after it will do, and what crosses; changes nothing.

    Rows, sizes and times are estimates.  Only the source has to answer.  Exit 3 if
    something blocks the plan.

    \b
    dbsplit plan explain plan.yaml
    dbsplit plan explain plan.yaml --html split.html
    dbsplit plan explain plan.yaml --sql | less
    """
    with told(as_json=as_json) as talk:
        from plans.findings import has_blocker
        from toolkit.cli.explain import explanation, explanation_text
        from toolkit.explain.crossings import crossings
        from toolkit.explain.foresight import foresee
        from toolkit.explain.picture.sheet import render_sheet
        from toolkit.stages import stages

        outlook = foresee(plan)
        those, across = stages(outlook), crossings(outlook.split, outlook.dependents)
        result = explanation(outlook, those, across, with_sql=with_sql)
        text = explanation_text(outlook, those, across, with_sql=with_sql)
        if html is not None:
            page = render_sheet(outlook, those, across)
            with writing(html):
                html.write_text(page, encoding="utf-8")
            if not as_json:
                talk.line("written", str(html))
            result["html"] = str(html)
        talk.result(result, text)
        if has_blocker(outlook.findings):
            sys.exit(3)


@plan_group.command("render")
@PLAN
@JSON
@click.option(
    "-o",
    "--output",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the environment is written.",
)
@click.option("--force", is_flag=True, help="Write into a directory that holds other files, too.")
def plan_render(plan: Path, directory: Path, *, as_json: bool, force: bool) -> None:
    """Write the services' schemas as an Alembic environment; changes no database.

    \b
    dbsplit plan render plan.yaml -o schemas
    cd schemas && alembic -n crm upgrade head --sql
    """
    with told(as_json=as_json) as talk:
        from plans.printable import printable
        from toolkit.rendering.tree import render_plan, write

        rendering = render_plan(plan)
        with writing(directory):
            write(rendering, directory, force=force)
        result = {
            "outcome": "rendered",
            "directory": str(directory),
            "services": {tree.service: tree.as_dict() for tree in rendering.services},
            "files": sorted(rendering.files),
        }
        lines = [
            f"{tree.service}: {tree.statements} statements for PostgreSQL {tree.version}"
            + ("" if tree.reached else " (assumed: the target did not answer)")
            + f"; left out: {len(tree.left_out)}"
            for tree in rendering.services
        ]
        talk.result(
            result,
            "\n".join([*map(printable, lines), f"{len(rendering.files)} files in {directory}"]),
        )


@plan_group.command("queries")
@PLAN
@click.argument("paths", nargs=-1, metavar="[SERVICE=]PATH...")
@click.option(
    "--statistics", is_flag=True, help="Also what pg_stat_statements of the source has counted."
)
@click.option(
    "--allow",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Allow-list; allowed-queries.yaml beside the plan if not given.",
)
@FORMAT
@JSON
def plan_queries(
    plan: Path,
    paths: tuple[str, ...],
    allow: Path | None,
    form: str,
    *,
    statistics: bool,
    as_json: bool,
) -> None:
    """Find the statements that cross the plan's boundary; exit 3 if there is one.

    Read are scripts (.sql), strings of source code that are SQL, and PostgreSQL's logs
    (.log, .csv, .json).  Whose code a path is may be said; of logs and statistics it is
    told by the role.  The source need only have the schema: a database of the CI will do.

    \b
    dbsplit plan queries plan.yaml src/ migrations/
    dbsplit plan queries plan.yaml shop=services/shop crm=services/crm --format github
    dbsplit plan queries plan.yaml --statistics
    """
    with told(as_json=as_json) as talk:
        if not paths and not statistics:
            raise click.UsageError("name at least one PATH, or --statistics")
        from plans.findings import ordered
        from plans.findings_written import render_findings
        from plans.sarif import repository_of
        from toolkit.cli.queries import queries_result, read_report

        report, skipped = read_report(plan, paths, allow, statistics=statistics)
        for file, why in skipped.items():
            talk.line("skipped", f"{file}: {why}")
        if as_json:
            talk.result(queries_result(report, skipped), "")
        else:
            found = ordered(report.findings())
            click.echo(render_findings(found, form, repository_of(plan)))  # type: ignore[arg-type]
        if not report.ok:
            sys.exit(3)
