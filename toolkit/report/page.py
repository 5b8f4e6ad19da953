"""The sheet that reports and certificates are printed on.

A page is one file.  Its policy forbids it to load anything, and to run anything but the one
script that it was given, so it opens the same on a laptop without a network, in a ticket, and
in ten years.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from toolkit.report.markup import Markup, element, join

WIDTHS = {"wide": 1000, "medium": 660, "narrow": 360}  # style.css shows the one that fits
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, *body: str | None, style: str = "", script: str = "") -> str:
    """A whole document; `style` comes after the sheet's own, `script` after the body."""
    # As they are, not escaped: the texts of these elements are not parsed for entities.
    ours = files("toolkit.report").joinpath("style.css").read_text(encoding="utf-8")
    style, script = Markup(ours + style), Markup(script)
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    run = element("script", script) if script else None
    return "<!DOCTYPE html>\n" + element(
        "html", head, element("body", element("main", *body), run), lang="en"
    )


def section(title: str, *body: str | None, lead: str | None = None) -> Markup:
    """A headed part of a page; `lead` is the sentence that says how to read it."""
    said = None if lead is None else element("p", lead, class_="lead")
    return element("section", element("h2", title), said, *body)


def fitted(drawings: dict[str, Markup]) -> Markup:
    """The same picture for several widths, of which one is shown."""
    return join(element("div", drawing, class_=f"fit {name}") for name, drawing in drawings.items())


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    kind: str | None = None,
) -> Markup:
    """A table whose first column names the row; `numbers` are set to the right."""
    aligned = ["number" if column in numbers else None for column in columns]
    head = [
        element("th", column, scope="col", class_=place)
        for column, place in zip(columns, aligned, strict=True)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_=place)
                for cell, place in zip(row[1:], aligned[1:], strict=True)
            ),
        )
        for row in rows
    ]
    drawn = element(
        "table", element("thead", element("tr", *head)), element("tbody", *body), class_=kind
    )
    return element("div", drawn, class_="scroll")
