"""The report of a program's calls as a page, which refers to nothing else. Pure."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Sequence

from joblib_distributed.command.report import report
from joblib_distributed.driver.records import Summary
from joblib_distributed.driver.spans import Span

#: Of the picture, in its own units: the width of the time, of the names, and a row's
#: height.
WIDTH, NAMES, ROW = 900.0, 240.0, 18.0

#: Told apart by most people, also in grey: one function after the other has the next.
COLOURS = ("#30638e", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#7d7d7d")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1180px;
       color: #222; background: #fff; padding: 0 1em; }
pre { background: #f4f4f4; padding: 1em; white-space: pre-wrap; }
table { border-collapse: collapse; } td, th { padding: 0 1em 0 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; }
i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; }
"""


def page(title: str, summary: Summary, spans: Sequence[Span]) -> str:
    """Return the whole page.

    Parameters
    ----------
    title : str
        What was run.
    summary : Summary
    spans : sequence of Span
    """
    colours = {
        name: COLOURS[number % len(COLOURS)]
        for number, name in enumerate(dict.fromkeys(span.name for span in spans))
    }
    shown = [
        f"<h1>{html.escape(title)}</h1>",
        f"<pre>{html.escape(report(summary))}</pre>",
    ]
    if spans:
        shown += [
            "<h2>What the workers did</h2>",
            _legend(spans, colours),
            _timeline(spans, colours),
            "<p>Each bar is a batch of tasks; a red one has a task that failed. It ends "
            "when the driver heard of it. Hold the pointer over one to read what it was. "
            "</p>",
        ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(shown)}</body></html>\n"
    )


def _legend(spans: Iterable[Span], colours: dict[str, str]) -> str:
    tasks: dict[str, int] = defaultdict(int)
    errors: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for span in spans:
        tasks[span.name] += span.tasks
        errors[span.name] += span.errors
        seconds[span.name] += span.end - span.start
    rows = "".join(
        f'<tr><td><i style="background:{colour}"></i>{html.escape(name)}</td>'
        f"<td>{tasks[name]:,}</td><td>{errors[name]:,}</td>"
        f"<td>{seconds[name]:.2f}</td>"
        f"<td>{seconds[name] / max(1, tasks[name]) * 1e3:.2f}</td></tr>"
        for name, colour in colours.items()
    )
    return (
        "<table><tr><th>function</th><th>tasks</th><th>failed</th><th>work, s</th>"
        f"<th>a task, ms</th></tr>{rows}</table>"
    )


def lanes(spans: Iterable[Span]) -> dict[str, list[list[Span]]]:
    """Part the spans of each worker so that none of a lane overlap: it has threads."""
    found: dict[str, list[list[Span]]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        mine = found.setdefault(span.worker, [])
        # News of two batches of one thread may come in one moment.
        slack = 0.2 * (span.end - span.start)
        free = next((lane for lane in mine if lane[-1].end <= span.start + slack), None)
        if free is None:
            mine.append([span])
        else:
            free.append(span)
    return dict(sorted(found.items()))


def _timeline(spans: Sequence[Span], colours: dict[str, str]) -> str:
    start = min(span.start for span in spans)
    length = max(1e-9, max(span.end for span in spans) - start)
    scale = WIDTH / length
    parts, row = [], 0
    for worker, mine in lanes(spans).items():
        parts.append(f'<text x="0" y="{row * ROW + 13:.0f}">{html.escape(worker)}</text>')
        for lane in mine:
            parts += (_bar(span, start, scale, row * ROW, colours) for span in lane)
            row += 1
    height = row * ROW
    for tick in range(6):
        x = NAMES + WIDTH * tick / 5
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height:.0f}" '
            'stroke="#0002"/>'
            f'<text x="{x:.1f}" y="{height + 14:.0f}" text-anchor="middle">'
            f"{length * tick / 5:.2f} s</text>"
        )
    return (
        f'<svg role="img" aria-label="What the workers did" viewBox="0 0 '
        f'{NAMES + WIDTH + 30:.0f} {height + 20:.0f}">{"".join(parts)}</svg>'
    )


def _bar(
    span: Span, start: float, scale: float, y: float, colours: dict[str, str]
) -> str:
    x = NAMES + (span.start - start) * scale
    width = max(0.5, (span.end - span.start) * scale)
    stroke = ' stroke="#e00" stroke-width="2"' if span.errors else ""
    failed = f", {span.errors} failed" if span.errors else ""
    return (
        f'<rect x="{x:.2f}" y="{y + 2:.0f}" width="{width:.2f}" height="{ROW - 4:.0f}" '
        f'fill="{colours[span.name]}"{stroke}><title>{html.escape(span.name)}: '
        f"{span.tasks} tasks in {span.end - span.start:.3f} s{failed}</title></rect>"
    )
