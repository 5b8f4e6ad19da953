"""The page: the picture, what was chosen in it, and everything in words below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

from plans.findings import Severity, has_blocker
from toolkit.explain.crossings import Crossing
from toolkit.explain.outlook import Outlook
from toolkit.explain.picture import listing
from toolkit.explain.picture.arrangement import arrange
from toolkit.explain.picture.drawing import draw, legend
from toolkit.explain.picture.scene import scene_of
from toolkit.report.amounts import many
from toolkit.report.markup import Markup, element
from toolkit.report.page import page
from toolkit.stages import Stage


def render_sheet(outlook: Outlook, stages: Sequence[Stage], crossings: Sequence[Crossing]) -> str:
    """A self-contained document: it loads nothing, and reads without its script."""
    scene = scene_of(outlook, crossings)
    title = _title(outlook)
    told = [
        element("div", element("dt", label), element("dd", value))
        for label, value in listing.figures(outlook, crossings)
    ]
    body = [
        _about(outlook),
        element("h1", title),
        element("dl", *told, class_="figures"),
        element(
            "div",
            element("div", draw(scene, arrange(scene)), class_="canvas"),
            element(
                "aside",
                element("div", class_="chosen", aria_live="polite", tabindex="-1"),
                element("h3", "How to read it"),
                legend(),
                aria_label="What was chosen in the picture",
            ),
            class_="stage",
        ),
        listing.stages_section(stages),
        listing.tables_section(outlook, scene, crossings),
        listing.crossings_section(scene, crossings),
        listing.left_out_section(outlook),
        listing.findings_section(outlook),
        listing.honest_section(outlook),
        element("footer", f"Written by dbsplit plan explain for {outlook.split.plan.path.name}."),
    ]
    return page(
        f"{outlook.split.name}: {title}", *body, style=_text("sheet.css"), script=_text("sheet.js")
    )


def _about(outlook: Outlook) -> Markup:
    counts = Counter(one.severity for one in outlook.findings)
    said = ", ".join(
        many(counts[severity], severity.value, f"{severity.value}s")
        for severity in Severity
        if counts[severity]
    )
    verdict = said or "plan check found nothing"
    return element(
        "div",
        element("strong", f"Split {outlook.split.name}"),
        element("span", f"of database {outlook.split.catalog.database}"),
        element("span", verdict, class_="blocker" if has_blocker(outlook.findings) else None),
        class_="about",
    )


def _title(outlook: Outlook) -> str:
    services = list(outlook.split.plan.services)
    named = ", ".join(services[:-1]) + f" and {services[-1]}" if services[1:] else services[0]
    if len(services) > 4:
        named = f"{len(services)} services"
    return f"One database becomes {len(services)}: {named}" if len(services) <= 4 else (
        f"One database becomes those of {named}"
    )  # fmt: skip


def _text(name: str) -> str:
    return files("toolkit.explain.picture").joinpath(name).read_text(encoding="utf-8")
