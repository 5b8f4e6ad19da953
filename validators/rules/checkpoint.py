"""The process that runs rules: the one door to Great Expectations.

It reads a job (`validators.rules.job`) on standard input and writes one JSON object a line for
each rule on standard output.  Each side of a service is a suite, run by a checkpoint.

What of Great Expectations would not do:

* Its own count of unexpected rows runs the query twice, and holds all rows.  `RowsBreakingRule`
  runs it once, and gets the exact count with the first rows.
* It substitutes ``$``, braces and ``:name`` in queries.  Ours go to the driver as they are.
* It keeps connection strings in its configuration.  Ours name a run, and the driver's
  connections are made by a hook of SQLAlchemy that knows the run's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

# Before the import, which reads them: nothing is to be sent anywhere.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import great_expectations as gx
import psycopg
import sqlalchemy as sa
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.render import RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer
from psycopg import sql

from cdc.connect import PINNED_SETTINGS, session_conninfo
from validators.rules.data_docs import write_offline
from validators.rules.rule import EXAMPLES_MAX

Job = Mapping[str, Any]

SETTLE_ROUNDS: Final = 2
SETTLE_S: Final = 2.0
LOCK_S_MAX: Final = 30
TEXT_MAX: Final = 200  # characters shown of a value
SITE: Final = "dbsplit"

# One statement, so that count and rows are of one moment; whatever the types, rows are text.
_COUNTED: Final = (
    "SELECT row_to_json(x.u)::text, x.n FROM"
    " (SELECT u, count(*) OVER () AS n FROM (\n{query}\n) AS u LIMIT {limit}) AS x"
)


class RowsBreakingRule(BatchExpectation):  # type: ignore[misc] # whose type is not looked at
    """No row is selected by the rule's query."""

    rule: str
    meaning: str
    unexpected_rows: str
    metric_dependencies: ClassVar[tuple[str, ...]] = ()
    success_keys: ClassVar[tuple[str, ...]] = ("rule", "meaning", "unexpected_rows")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: Any = None,  # noqa: ANN401
    ) -> dict[str, Any]:
        query = _COUNTED.format(query=self.unexpected_rows, limit=EXAMPLES_MAX)
        began = time.monotonic()
        try:
            with execution_engine.get_connection() as connection:
                plain = connection.execution_options(no_parameters=True)
                rows = plain.exec_driver_sql(query).fetchall()
        except sa.exc.DBAPIError as error:
            return _not_told(error)
        count = rows[0][1] if rows else 0
        examples = [_shortened(json.loads(text)) for text, _ in rows]
        details = {"unexpected_rows": examples, "elapsed_s": time.monotonic() - began}
        result = {"observed_value": count, "details": details}
        return {"success": count == 0, "result": result}

    @classmethod
    @renderer(renderer_type="renderer.prescriptive")  # type: ignore[untyped-decorator]
    def _prescriptive_renderer(
        cls,
        configuration: Any = None,  # noqa: ANN401
        **_: Any,  # noqa: ANN401
    ) -> list[Any]:
        """What a page shows of the rule: its name, what it means, and how it is asked."""
        params = {name: configuration.kwargs[name] for name in cls.success_keys}
        return [
            RenderedStringTemplateContent(
                content_block_type="string_template",
                string_template={"template": text, "params": params},
            )
            for text in ("$rule: $meaning", "$unexpected_rows")
        ]


def _not_told(error: sa.exc.DBAPIError) -> dict[str, Any]:
    """A result that is no success; raised, the error would be shown with a traceback."""
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or str(error.orig)
    reason = said.strip().partition("\n")[0]
    result = {"observed_value": f"unverified: {reason}", "details": {"reason": reason}}
    return {"success": False, "result": result}


def main() -> None:
    """Run the job on standard input."""
    # What Great Expectations prints is not an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    _connect_by({run["name"]: run for run in job["runs"]}, job["rule_s_max"])
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    for run in job["runs"]:
        for answer in _Suite(context, run).answers():
            answers.write(json.dumps({"run": run["name"], **answer}) + "\n")
            answers.flush()
    if job["docs"]:
        _write_docs(context, Path(job["docs"]))


class _Suite:
    """One run: the rules of one service on the rows of one database."""

    def __init__(self, context: Any, run: Job) -> None:  # noqa: ANN401
        self._context = context
        self._name = run["name"]
        self._rules = {rule["number"]: rule for rule in run["rules"]}
        self._rounds = SETTLE_ROUNDS if run["follows"] else 0
        self._source = context.data_sources.add_postgres(
            self._name, connection_string=f"postgresql+psycopg://dbsplit@dbsplit/{self._name}"
        )
        # A rule's query says itself what it reads; a batch there must be.
        self._no_batch = self._batch("rules", "SELECT 1 AS one")

    def answers(self) -> Iterator[dict[str, Any]]:
        """Run all rules and answer for each.

        Where the stream may have been in the middle of something, what is broken is looked at
        again, and counts if it stays.
        """
        found = self._checked(list(self._rules), 0)
        for number in range(1, self._rounds + 1):
            broken = [rule for rule, answer in found.items() if answer["outcome"] == "failed"]
            if broken:
                time.sleep(SETTLE_S)
                found |= self._checked(broken, number)
        for number in self._rules:
            yield {"rule": number, **found.get(number, _untold("Great Expectations has no result"))}

    def _checked(self, numbers: Sequence[int], again: int) -> dict[int, dict[str, Any]]:
        """One checkpoint over these rules."""
        label = f"{self._name}-again-{again}" if again else self._name
        made, found = _made({number: self._rules[number] for number in numbers})
        ours = [made[number] for number in made if self._rules[number]["expectation"] is None]
        definitions = [self._definition(label, self._no_batch, ours)] if ours else []
        for number, expectation in made.items():
            if self._rules[number]["expectation"] is not None:
                name = f"{label}-{number}"
                batch = self._batch(name, self._rules[number]["query"])
                definitions.append(self._definition(name, batch, [expectation]))
        if not definitions:
            return found
        checkpoint = self._context.checkpoints.add(
            gx.Checkpoint(
                name=label,
                validation_definitions=definitions,
                result_format={
                    "result_format": "SUMMARY",
                    "partial_unexpected_count": EXAMPLES_MAX,
                },
            )
        )
        for result in checkpoint.run().run_results.values():
            for one in result.results:
                found[one.expectation_config.meta["dbsplit"]] = _answer(one)
        return found

    def _batch(self, name: str, query: str) -> Any:  # noqa: ANN401
        asset = self._source.add_query_asset(name, query=query)
        return asset.add_batch_definition_whole_table("all")

    def _definition(self, name: str, batch: Any, expectations: Sequence[Any]) -> Any:  # noqa: ANN401
        suite = self._context.suites.add(gx.ExpectationSuite(name))
        suite.expectations = list(expectations)
        suite.save()
        return self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )


def _made(rules: Mapping[int, Job]) -> tuple[dict[int, Any], dict[int, dict[str, Any]]]:
    """The expectations of some rules, and the answers of those that there cannot be."""
    made: dict[int, Any] = {}
    wrong: dict[int, dict[str, Any]] = {}
    for number, rule in rules.items():
        try:
            made[number] = _expectation(rule)
        except (AttributeError, TypeError, ValueError) as error:
            said = f"{rule['name']} is no expectation: {' '.join(str(error).split())}"
            wrong[number] = _untold(said)
    return made, wrong


def _expectation(rule: Job) -> Any:  # noqa: ANN401
    meta = {"dbsplit": rule["number"]}
    if (own := rule["expectation"]) is None:
        return RowsBreakingRule(
            rule=rule["name"], meaning=rule["meaning"], unexpected_rows=rule["query"], meta=meta
        )
    name = "".join(part.capitalize() for part in own["type"].split("_"))
    kind = getattr(gx.expectations, name, None)
    if kind is None:
        raise ValueError(f"Great Expectations has no {own['type']}")
    return kind(**own["kwargs"], meta=meta)


def _answer(one: Any) -> dict[str, Any]:  # noqa: ANN401
    """What one of the checkpoint's results says."""
    if reasons := list(_raised(one.exception_info or {})):
        return _untold("; ".join(dict.fromkeys(reasons)))
    result = one.result or {}
    details = result.get("details") or {}
    if "reason" in details:
        return _untold(details["reason"])
    if "unexpected_rows" in details:
        unexpected, examples = result["observed_value"], details["unexpected_rows"]
        return {**_told(one, unexpected, examples), "elapsed_s": details["elapsed_s"]}
    values = [_shortened({"value": value}) for value in result.get("partial_unexpected_list", [])]
    seen = result.get("observed_value")
    reason = "" if one.success or seen is None else f"observed {str(seen)[:TEXT_MAX]}"
    return {**_told(one, result.get("unexpected_count", 0), values), "reason": reason}


def _told(one: Any, unexpected: int, examples: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN401
    return {
        "outcome": "passed" if one.success else "failed",
        "unexpected": unexpected,
        "examples": examples,
    }


def _untold(reason: str) -> dict[str, Any]:
    return {"outcome": "unverified", "reason": reason}


def _raised(info: Mapping[str, Any]) -> Iterator[str]:
    """The messages of what was raised; Great Expectations keeps one, or one for each metric."""
    if info.get("raised_exception"):
        # SQLAlchemy adds the query, and names the class in front.
        said = str(info.get("exception_message", "")).split("\n[SQL:")[0].strip()
        said = said.partition(") ")[2] if said.startswith("(psycopg.") else said
        yield said.partition("\n")[0] or "Great Expectations does not say why"
    for one in info.values():
        if isinstance(one, Mapping):
            yield from _raised(one)


def _shortened(row: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: None if v is None else _text(v)[:TEXT_MAX] for name, v in row.items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _connect_by(runs: Mapping[str, Job], rule_s_max: float) -> None:
    """Have every engine of this process connect to its run's server, and only read there."""

    @sa.event.listens_for(sa.Engine, "do_connect")
    def connect(*arguments: Any) -> psycopg.Connection:  # noqa: ANN401
        run = runs[arguments[3]["dbname"]]
        connection = psycopg.connect(session_conninfo(run["dsn"], name="dbsplit rules"))
        connection.prepare_threshold = None
        return connection

    @sa.event.listens_for(sa.Engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # Within the transaction: a pooler in between may hand the session to someone else.
        path = runs[connection.engine.url.database or ""]["search_path"]
        driver = connection.connection.driver_connection
        assert driver is not None  # noqa: S101 - it has just begun a transaction
        driver.execute(_settings(path, rule_s_max))


def _settings(path: Sequence[str], rule_s_max: float) -> sql.Composed:
    settings = {
        **PINNED_SETTINGS,
        "row_security": "off",
        "lock_timeout": f"{LOCK_S_MAX}s",
        "statement_timeout": f"{rule_s_max * 1000:.0f}ms",
    }
    pins = [sql.SQL("SET LOCAL {} TO {}").format(sql.Identifier(n), v) for n, v in settings.items()]
    searched = sql.SQL(", ").join(map(sql.Identifier, path))
    return sql.SQL("; ").join(
        [
            # One moment for all that a rule asks, be it several statements of the library.
            sql.SQL("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"),
            *pins,
            sql.SQL("SET LOCAL search_path TO {}").format(searched),
        ]
    )


def _write_docs(context: Any, directory: Path) -> None:  # noqa: ANN401
    with TemporaryDirectory() as site:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": site}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            SITE,
            {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store},
        )
        context.build_data_docs(site_names=[SITE])
        write_offline(Path(site), directory)


if __name__ == "__main__":
    main()
