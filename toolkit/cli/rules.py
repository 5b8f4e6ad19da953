"""Rules on the command line: the options of `validate`, and how results look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plans.printable import printable

if TYPE_CHECKING:
    from toolkit.rules import Chosen
    from validators.rules.rule import RuleResult

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLES_SHOWN = 3


def rule_options(command: F) -> F:
    """The options by which rules are chosen."""
    for option in (
        click.option(
            "--rule-timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=600.0,
            show_default=True,
            help="Seconds that one rule may take; beyond them it is unverified.",
        ),
        click.option(
            "--docs",
            type=click.Path(path_type=Path, file_okay=False),
            help="Write Data Docs of the rules to this directory.",
        ),
        click.option(
            "--suites",
            type=click.Path(path_type=Path, file_okay=False, exists=True),
            help="Directory with rules of your own; rules/ beside the plan, if it is there.",
        ),
        click.option(
            "--rules", is_flag=True, help="Ask rules, too; needs pip install 'dbsplit[quality]'."
        ),
    ):
        command = option(command)
    return command


def chosen_rules(
    services: Sequence[str], tables: Sequence[str], options: dict[str, Any]
) -> Chosen | None:
    """Which rules are wanted; None without --rules."""
    if not options["rules"]:
        for name in ("suites", "docs"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} says nothing without --rules")
        return None
    from toolkit.rules import Chosen

    return Chosen(
        services=services,
        tables=tables,
        suites=options["suites"],
        docs=options["docs"],
        rule_s_max=options["rule_timeout"],
    )


def rules_text(results: Sequence[RuleResult]) -> str:
    """The rules that are broken or could not be told, and how many there are of each kind."""
    from validators.rules.rule import tally

    if not results:
        return ""
    lines = ["", "", "rules: " + ", ".join(f"{n} {name}" for name, n in tally(results).items())]
    for one in results:
        if one.outcome != "passed":
            lines.append(_line(one))
            lines += [f"    {text}" for text in one.shown[:_EXAMPLES_SHOWN]]
    return "\n".join(map(printable, lines))


def broken_text(results: Sequence[RuleResult], *, equal: bool) -> str:
    """That rules are broken, told apart from rows that differ."""
    from validators.rules.rule import tally

    counts = tally(results)
    rows = "every row that was compared is equal" if equal else "and rows differ, see above"
    return f"rules are broken: {counts['failed']} failed, {counts['unverified']} unverified; {rows}"


def _line(one: RuleResult) -> str:
    state = "warning" if one.outcome == "failed" and one.severity == "warning" else one.outcome
    where = f" ({one.place})" if one.place else ""
    if one.outcome == "unverified":
        said = one.reason
    else:
        rows = f"{one.unexpected:,} row{'' if one.unexpected == 1 else 's'} break it"
        said = f"{one.reason or rows}; {one.meaning}"
    return f"  {state}  {one.service} {one.side}: {one.rule}{where}: {said}"
