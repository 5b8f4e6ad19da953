"""Data Docs that load nothing from anywhere.

Great Expectations' pages load styles, scripts, fonts and a logo from seven hosts, and are empty
lists without them.  Here the pages keep what they say and lose what they load: a few lines of
style take the place of Bootstrap's, the index is written anew, and a policy in each page
forbids to load anything, so that what a later release adds would not be loaded either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import quote

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_INDEX: Final = "index.html"
_HEAD: Final = f"""<meta http-equiv="Content-Security-Policy" content="{POLICY}">"""
_STYLE: Final = """<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
         padding: 0 1rem; color: #1b1f24; background: #fff; }
  table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
  td, th { border-top: 1px solid #d5d9de; padding: .35rem .6rem; text-align: left;
           vertical-align: top; overflow-wrap: anywhere; }
  nav ol, nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem; }
  a { color: #0a58ca; } pre, code { white-space: pre-wrap; overflow-wrap: anywhere; }
  .alert { background: #f0f2f4; padding: .6rem .8rem; border-radius: .3rem; }
  .card { border: 1px solid #d5d9de; border-radius: .3rem; padding: .4rem .8rem; }
  .text-success::before { content: "\\2713"; color: #1a7f37; font-weight: bold; }
  .text-danger::before { content: "\\2717"; color: #cf222e; font-weight: bold; }
  .text-warning::before { content: "!"; color: #9a6700; font-weight: bold; }
  button, .btn-group, .cooltip .top, [hidden] { display: none; }
  @media (prefers-color-scheme: dark) {
    body { color: #e6e8ea; background: #16191d; } a { color: #8ab4f8; }
    .alert { background: #23282e; } td, th, .card { border-color: #3a4048; } }
</style>"""

_GONE: Final = tuple(
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"<script\b.*?</script>",
        r"<style\b.*?</style>",
        r"<link\b[^>]*>",
        r"<img\b[^>]*>",
        r"<iframe\b.*?</iframe>",
        r"<footer\b.*?</footer>",
        r'<a data-toggle="collapse".*?</a>',  # what it hides is shown
        # its filter needs a script
        r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>'
        r".*?</label>\s*</div>\s*</div>\s*</div>\s*</div>\s*</div>",
    )
)
_LINK_OUT: Final = re.compile(
    r"<a\b[^>]*href=[\"']?https?://[^>]*>(.*?)</a>", re.DOTALL | re.IGNORECASE
)
_STATUS: Final = re.compile(r"Status:.*?</i>\s*(\w+)", re.DOTALL)


def is_ours(directory: Path) -> bool:
    """Whether pages may be written there: it is new, empty, or holds what was written before."""
    index = directory / _INDEX
    if index.is_file():
        return POLICY in index.read_text(encoding="utf-8", errors="replace")
    return not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))


def write_offline(site: Path, directory: Path) -> None:
    """Write a site's pages to a directory, as ones that load nothing, with an index.

    What earlier runs have left there stays, and is in the index too.
    """
    for page in site.rglob("*.html"):
        if page.name != _INDEX:
            there = directory / page.relative_to(site)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(_offline(page.read_text(encoding="utf-8")), encoding="utf-8")
    pages = sorted(page for page in directory.rglob("*.html") if page.name != _INDEX)
    (directory / _INDEX).write_text(_index(directory, pages), encoding="utf-8")


def _offline(text: str) -> str:
    for gone in _GONE:
        text = gone.sub("", text)
    text = _LINK_OUT.sub(r"\1", text)
    return re.sub(r"<head\b[^>]*>", lambda head: f"{head[0]}\n{_HEAD}\n{_STYLE}", text, count=1)


def _index(directory: Path, pages: list[Path]) -> str:
    results = "\n".join(_results(directory, pages))
    suites = "\n".join(
        f"<li>{_link(directory, page, page.stem)}</li>"
        for page in pages
        if page.is_relative_to(directory / "expectations")
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head>{_HEAD}<meta charset="UTF-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rules</title>{_STYLE}</head><body>
<h1>Rules</h1>
<h2>Results</h2>
<table><thead><tr><th>suite</th><th>at</th><th>outcome</th></tr></thead><tbody>
{results}
</tbody></table>
<h2>Suites</h2>
<ul>
{suites}
</ul>
</body></html>
"""


def _results(directory: Path, pages: list[Path]) -> Iterator[str]:
    for page in pages:
        if page.is_relative_to(directory / "validations"):
            # validations/SUITE/RUN/TIME/BATCH.html
            suite, _, at = page.relative_to(directory / "validations").parts[:3]
            found = _STATUS.search(page.read_text(encoding="utf-8"))
            outcome = found[1] if found else ""
            mark = "text-success" if outcome == "Succeeded" else "text-danger"
            yield (
                f"<tr><td>{_link(directory, page, suite)}</td><td>{escape(at)}</td>"
                f'<td><i class="{mark}"></i> {escape(outcome)}</td></tr>'
            )


def _link(directory: Path, page: Path, text: str) -> str:
    target = quote(str(page.relative_to(directory)))
    return f'<a href="{target}">{escape(text)}</a>'
