"""How the demo looks: steps that get their ticks, and what moves while they do."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from toolkit.cli.signals import interrupted_by
from toolkit.cli.talk import Talk
from toolkit.demo.report import next_steps
from toolkit.demo.run import Options, Outcome, run_demo
from toolkit.demo.stage import SERVICES
from toolkit.demo.telling import Began, Ended, Said, Sample, Tell, Telling

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BARS: Final = "▁▂▃▄▅▆▇█"
_SHOWN: Final = 48  # samples in the little curve: twelve seconds
_JSON_SAMPLE_S: Final = 1.0
_STYLES: Final = {"moved": "green", "completed": "green", "draining": "yellow", "settled": "yellow"}


def show_demo(
    talk: Talk, directory: Path | None, *, scale: float, version: str | None, keep: bool
) -> bool:
    """Run the demo before the user's eyes; whether it proved what it is to prove."""
    chosen = directory or Path(time.strftime("dbsplit-demo-%Y%m%d-%H%M%S"))
    options = Options(directory=chosen.absolute(), scale=scale, version=version, keep=keep)
    # The first signal ends the demo, and none after it keeps it from cleaning up.
    with interrupted_by(*_ENDING, first=_ignore_signals), _screen(talk) as tell:
        outcome = run_demo(options, tell)
    if not talk.as_json:
        click.echo(_headline(outcome))
    talk.result(outcome.result(), _summary(outcome))
    return outcome.facts.ok


def _ignore_signals() -> None:
    for signum in _ENDING:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def _screen(talk: Talk) -> Iterator[Tell]:
    console = Console(stderr=True, highlight=False)
    if talk.as_json:
        yield _Lines()
    elif console.is_terminal:
        with _Picture(console) as picture:
            yield picture
    else:
        yield _plain


def _plain(telling: Telling) -> None:
    """For a log file: one line when a step begins, one when it is done."""
    match telling:
        case Began(title=title):
            click.echo(f"… {title}", err=True)
        case Ended(title=title, took_s=took_s, summary=summary):
            click.echo(f"✓ {title}: {summary or 'done'} ({took_s:.1f} s)", err=True)
        case _:
            pass


class _Lines:
    """JSON lines, for programs."""

    def __init__(self) -> None:
        self._sampled_at = 0.0

    def __call__(self, telling: Telling) -> None:
        match telling:
            case Began(step=step, title=title):
                self._say("begin", {"step": step, "title": title})
            case Ended(step=step, took_s=took_s, summary=summary):
                self._say("end", {"step": step, "took_s": round(took_s, 2), "summary": summary})
            case Said(step=step, details=details):
                self._say("said", {"step": step, "line": details})
            case Sample(at=at) if at - self._sampled_at >= _JSON_SAMPLE_S:
                self._sampled_at = at
                self._say(
                    "sample",
                    {
                        "acknowledged": telling.acknowledged,
                        "per_s": round(telling.per_s, 1),
                        "phases": telling.phases,
                        "lag_bytes": telling.lag_bytes,
                    },
                )
            case _:
                pass

    def _say(self, event: str, details: dict[str, Any]) -> None:
        click.echo(json.dumps({"event": event, **details}, default=str))


class _Picture:
    """For a person: steps done scroll by, what goes on stands below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._title = ""
        self._began = time.monotonic()
        self._said = ""
        self._sample: Sample | None = None
        self._rates: deque[float] = deque(maxlen=_SHOWN)
        self._live = Live(  # last: it draws at once
            console=console,
            get_renderable=self._draw,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> _Picture:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, telling: Telling) -> None:
        match telling:
            case Began(title=title):
                self._title, self._said, self._began = title, "", time.monotonic()
            case Said(details=details):
                self._said = _in_words(details)
            case Sample():
                self._sample = telling
                self._rates.append(telling.per_s)
            case Ended(title=title, took_s=took_s, summary=summary):
                self._title = ""
                line = Text.assemble(("✓ ", "bold green"), title)
                if summary:
                    line.append(f"  {summary}", style="dim")
                line.append(f"  {took_s:.1f} s", style="cyan")
                self._console.print(line)

    def _draw(self) -> Group:
        parts: list[Any] = []
        if self._title:
            passed = time.monotonic() - self._began
            self._spinner.update(
                text=Text.assemble(
                    self._title, (f"  {passed:.0f} s", "cyan"), (f"  {self._said}", "dim")
                )
            )
            parts.append(self._spinner)
        if self._sample is not None:
            parts += [Text(""), *self._rows(self._sample)]
        return Group(*parts)

    def _rows(self, sample: Sample) -> Iterator[Any]:
        yield Text.assemble(
            ("  applications  ", "bold"),
            f"{sample.acknowledged:>8,} writes acknowledged  ",
            f"{sample.per_s:>5,.0f}/s  ",
            (_curve(self._rates), "green"),
        )
        if not sample.phases:
            return
        table = Table.grid(padding=(0, 2))
        for service in SERVICES:
            phase = sample.phases.get(service, "")
            lag = sample.lag_bytes.get(service)
            table.add_row(
                f"  {service}",
                Text(phase, style=_STYLES.get(phase, "")),
                "" if lag is None else f"{lag:>12,} bytes behind",
            )
        yield table


def _curve(rates: deque[float]) -> str:
    high = max(rates, default=0.0) or 1.0
    return "".join(_BARS[min(7, int(8 * max(rate, 0.0) / high))] for rate in rates)


def _in_words(details: Any) -> str:  # noqa: ANN401
    """The words of a line that a verb said: its event, and what it is about."""
    words = [str(details.get("event", ""))]
    words += [str(details[name]) for name in ("is", "service", "route", "name") if name in details]
    return " ".join(words)[:60]


def _summary(outcome: Outcome) -> str:
    facts = outcome.result()
    pauses = ", ".join(
        f"{what} {ms:,.0f} ms"
        for what, ms in zip(
            [name for name, _ in outcome.facts.moves], facts["write_pause_ms"], strict=True
        )
    )
    rows = [
        ("rows copied", _count(facts["rows"])),
        ("changes followed", _count(facts["changes"])),
        ("nobody could write", pauses or "—"),
        ("differences", _count(facts["differences"])),
        ("acknowledged writes", _count(facts["acknowledged"])),
        ("  missing", _count(facts["missing"])),
        ("  doubled", _count(facts["doubled"])),
        *(
            (f"  {name}", _count(facts[name]))
            for name in ("phantom", "altered", "torn")
            if facts[name]
        ),
        ("contradictions resolved", _count(facts["contradictions"])),
        ("report", facts["report"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [""]
    lines += [f"{name:<{width}}  {value}" for name, value in rows]
    lines += [f"  {fault}" for fault in facts["faults"]]
    if outcome.stop_commands:
        lines += ["", "The servers go on. Their DSNs as variables of the shell:"]
        lines += [f"  . {outcome.environment}"]
        lines += ["Stop them, and remove their data:"]
        lines += [f"  {command}" for command in outcome.stop_commands]
    lines += ["", "Next, with a database of your own:"]
    lines += [
        f"  {n}. {step.replace('`', '')}" for n, step in enumerate(next_steps(outcome.plan), 1)
    ]
    return "\n".join(lines)


def _headline(outcome: Outcome) -> str:
    if outcome.facts.ok:
        text = f"Every acknowledged write is there, once. It took {outcome.took_s:.0f} s."
        return click.style(text, fg="green", bold=True)
    text = outcome.facts.stopped or "The proof failed: see the figures."
    return click.style(f"FAILED: {text}", fg="red", bold=True)


def _count(number: int | None) -> str:
    return "not looked at" if number is None else f"{number:,}"
