"""What a report opens with: a verdict, and the figures behind it."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.report.amounts import count
from toolkit.report.markup import Markup, element
from toolkit.report.verdict import Standing, Verdict

_ICONS = {
    Standing.PROVEN: "M10.5 18.5 L16 24 L26 13",
    Standing.BROKEN: "M12.5 12.5 L23.5 23.5 M23.5 12.5 L12.5 23.5",
    Standing.UNPROVEN: "M18 10.5 L18 20 M18 25 L18 25.5",
}


def about(split: str, *told: str) -> Markup:
    """Whose report it is, and when it was made."""
    said = [element("span", one) for one in told]
    return element("div", element("strong", f"Split {split}"), *said, class_="about")


def verdict_box(verdict: Verdict) -> Markup:
    """The headline, with the reasons below it."""
    icon = element(
        "svg",
        element("circle", cx=18, cy=18, r=16),
        element("path", d=_ICONS[verdict.standing]),
        viewBox="0 0 36 36",
        aria_hidden="true",
    )
    told = [element("p", reason) for reason in verdict.reasons]
    return element(
        "div", icon, element("h1", verdict.headline), *told, class_=f"verdict {verdict.standing}"
    )


def figure_list(figures: Iterable[Markup]) -> Markup:
    """The figures, side by side."""
    return element("dl", *figures, class_="figures")


def must_be_zero(label: str, number: int | None) -> Markup:
    """A figure that is bad news unless it is 0; None was not looked at."""
    if number is None:
        return figure(f"{label}: not checked", "—", "doubt")
    return figure(label, count(number), "bad" if number else "good")


def figure(label: str, value: str, tone: str | None = None, *, is_long: bool = False) -> Markup:
    """One figure, and what it counts."""
    kinds = " ".join(kind for kind in (tone, "small" if is_long else None) if kind)
    return element("div", element("dt", label), element("dd", value, class_=kinds or None))
