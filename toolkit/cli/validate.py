"""``dbsplit validate``: every row compared, what differs told, and repaired if wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from toolkit.cli.continuous import continuous_options, require_sensible, watch_split
from toolkit.cli.options import JSON, PLAN, READERS, SERVICE, YES, writing
from toolkit.cli.rules import broken_text, chosen_rules, rule_options, rules_text
from toolkit.cli.scoping import NO_ROWS, scope_of, scope_options, scope_text
from toolkit.cli.talk import Talk, told

if TYPE_CHECKING:
    from toolkit.repair import Spool
    from toolkit.validated import Validated

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@PLAN
@JSON
@SERVICE
@click.option("--table", "tables", multiple=True, help="Only this table; may be repeated.")
@scope_options
@click.option(
    "--snapshot",
    is_flag=True,
    help="Compare both sides at one position, for which the stream stops a moment.",
)
@click.option(
    "--snapshot-limit",
    type=click.IntRange(1),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="With --snapshot: give it up then, as it keeps VACUUM from cleaning up.",
)
@continuous_options
@READERS
@click.option("--html", type=_FILE, help="Write a page to read, to drill into and to sign.")
@click.option("--junit", type=_FILE, help="Write JUnit XML: a test case for each table and rule.")
@click.option("--github", is_flag=True, help="Say what differs as annotations of GitHub Actions.")
@click.option(
    "--differences", type=_FILE, help="Write every difference, as a JSON object in a line."
)
@click.option("--csv", type=_FILE, help="Write every column that differs, for a spreadsheet.")
@click.option("--repair-sql", type=_FILE, help="Write a guarded psql script that repairs.")
@click.option("--repair", is_flag=True, help="Repair what differs, then compare it again.")
@click.option(
    "--direction",
    "toward",
    type=click.Choice(["target", "source"]),
    help="The side to repair; source only for services that have moved.",
)
@rule_options
@YES
def validate(
    plan: Path,
    services: tuple[str, ...],
    tables: tuple[str, ...],
    *,
    as_json: bool,
    yes: bool,
    **options: Any,  # noqa: ANN401 - as click has them
) -> None:
    """Compare every row, while applications write; exit 5 if rows differ.

    A difference counts only if it outlives the stream's delay.  What could not be
    compared to the end is "unverified", and no pass either.

    --repair says how many rows it would write, and asks; without a terminal it wants
    --yes.  Each row is read again on both sides in the transaction that writes it; what
    the stream still changes is left to it.  Repeating it changes nothing more.

    --snapshot needs no second look at anything: both sides are read as they were when the
    target had exactly what the leader had committed.  One that was killed begins anew, at a
    position of its own.  Without it, what large tables had proven by then is gone on with,
    if their keys begin with an integer.

    --continuous goes on until it is stopped (SIGTERM is clean, kill -9 is safe): a row that
    differs is told once, and once when it is equal again; exit 5 if something differs at
    the end.  `dbsplit status` shows when each table was proven last.

    A part of the rows (--from, --below, --within, --sample) is told as such; it proves
    nothing to a cutover, and forgets no changed keys.

    \b
    dbsplit validate plan.yaml
    dbsplit validate plan.yaml --service crm --table customers
    dbsplit validate plan.yaml --table orders --within updated_at:2d
    dbsplit validate plan.yaml --table events --jobs 8
    dbsplit validate plan.yaml --snapshot
    dbsplit validate plan.yaml --continuous --every 600
    dbsplit validate plan.yaml --html rows.html --junit rows.xml --github
    dbsplit validate plan.yaml --differences rows.jsonl --csv rows.csv
    dbsplit validate plan.yaml --repair-sql repair.sql
    dbsplit validate plan.yaml --repair --yes
    dbsplit validate plan.yaml --rules --suites rules --docs rule-docs
    """
    with told(as_json=as_json) as talk:
        _require_meant(options)
        if options["continuous"]:
            require_sensible(options)
            every_s, jobs = options["every"], options["jobs"]
            watch_split(plan, talk, services, tables, every_s=every_s, jobs=jobs)
            return
        from toolkit.validating import Wanted

        def may_repair(spool: Spool) -> bool:
            return _confirmed(talk, spool, yes=yes)

        _require_writable(options)
        wanted = Wanted(
            json_lines=options["differences"],
            csv=options["csv"],
            repair_sql=options["repair_sql"],
            repair=options["repair"],
            toward=options["toward"],
            rules=chosen_rules(services, tables, options),
            scope=scope_of(options),
            snapshot_s=options["snapshot_limit"] if options["snapshot"] else None,
            jobs=options["jobs"],
            may_repair=may_repair,
        )
        validated = compare_split(plan, talk, services, tables, wanted)
        reports = {name: options[name] for name in ("html", "junit", "github")}
        _write_reports(talk, validated, plan, **reports)
        tell(talk, validated)


def compare_split(
    plan: Path,
    talk: Talk,
    services: Sequence[str] = (),
    tables: Sequence[str] = (),
    wanted: Any = None,  # noqa: ANN401 - toolkit.validating.Wanted, which is imported late
) -> Validated:
    """Compare, and repair if that is wanted."""
    from toolkit.chosen_routes import chosen_routes
    from toolkit.cli.comparing import comparison_reporter
    from toolkit.cli.lists import read_lists
    from toolkit.cli.options import require_services
    from toolkit.opened import open_split
    from toolkit.validating import NOTHING, require_scope, run_validation, with_lists

    split = open_split(plan)
    require_services(split, services)
    routes = chosen_routes(split, services, tables)
    wanted = wanted or NOTHING
    require_scope(split, routes, wanted.scope)
    with comparison_reporter(talk, routes) as say:
        validated = run_validation(split, routes, say, wanted)
    return with_lists(validated, read_lists(split.plan, source_only=False))


def tell(talk: Talk, validated: Validated) -> None:
    """Say what was found; ends with exit code 5 if rows differ, could not be told, or none is."""
    talk.result(validated.as_dict(), "" if talk.as_json else _text(validated))
    if any(rule.counts for rule in validated.rules):
        talk.line("rules", broken_text(validated.rules, equal=validated.equal))
    if not validated.consistent:
        sys.exit(5)


def _text(validated: Validated) -> str:
    from toolkit.cli.comparing import repair_text
    from toolkit.cli.lists import lists_text
    from toolkit.cli.show import orphans_text, validation_text

    text = validation_text(validated.results) + scope_text(validated.scope)
    text += NO_ROWS if validated.met_nothing else ""
    text += repair_text(validated.repaired) + orphans_text(validated.orphans)
    text += rules_text(validated.rules)
    lists = lists_text(validated.lists)
    return f"{text}\n{lists}" if lists else text


def _require_meant(options: Mapping[str, Any]) -> None:
    """Have it a usage error to qualify what is not wanted."""
    context = click.get_current_context()
    for name, of in (("every", "continuous"), ("snapshot_limit", "snapshot")):
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and not options[of]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --{of}")


def _require_writable(options: Mapping[str, Any]) -> None:
    """Make the files before anything is compared: it would be a pity afterwards.

    They hold rows, and only their owner may read them.
    """
    from toolkit.difference_files import make_private

    for name in ("html", "junit", "differences", "csv", "repair_sql"):
        if (path := options[name]) is not None:
            with writing(path):
                make_private(path)


def _write_reports(
    talk: Talk,
    validated: Validated,
    plan: Path,
    *,
    html: Path | None,
    junit: Path | None,
    github: bool,
) -> None:
    if html is not None:
        from toolkit.report.validation import render_validation

        with writing(html):
            html.write_text(render_validation(validated), encoding="utf-8")
    if junit is not None:
        from toolkit.junit import write_junit

        with writing(junit):
            write_junit(validated.results, junit, rules=validated.rules)
    if github:
        from toolkit.annotations import annotation_lines

        for line in annotation_lines(validated, plan):
            click.echo(line, err=talk.as_json)


def _confirmed(talk: Talk, spool: Spool, *, yes: bool) -> bool:
    """Say what would be written; a person decides, or has decided by --yes."""
    for route, counts in spool.counts.items():
        if any(counts.values()):
            talk.say(
                "to_repair",
                {
                    "route": route,
                    "insert": counts["missing"],
                    "update": counts["different"],
                    "delete": counts["extra"],
                },
            )
    if yes:
        return True
    rows = f"{spool.total:,} row{'' if spool.total == 1 else 's'}"
    if sys.stdin.isatty() and not talk.as_json:
        return click.confirm(f"Repair {rows} now?", err=True)
    talk.line("repair", f"{rows} would be written; nothing was: say --yes to have it done")
    return False
