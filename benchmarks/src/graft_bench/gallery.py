"""Results -> one self-contained page: pictures as data addresses, no script, no outside address, light and dark."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from graft_bench.results import MEDIA, Result, Shot

# The policy makes the browser itself refuse anything that is not in the file.
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>Graft gallery</title>
"""


def page(results: Sequence[Result]) -> str:
    """The whole page for the demos' results, in the order given."""
    done = sum(result.ok for result in results)
    total = sum(result.ran.seconds for result in results)
    style = files("graft_bench").joinpath("gallery.css").read_text(encoding="utf-8")
    return (
        f"{HEAD}<style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>Graft gallery</h1>\n"
        '<p class="notice">Every picture on this page is synthetic or a phantom. Not for diagnosis.</p>\n'
        f"<p>{done} of {len(results)} demos succeeded, {total:.0f} seconds in all. Each ran offline on the small "
        "weights that are shipped with it; the same command takes full-size weights.</p>\n"
        f"{_overview(results)}</header>\n<main>\n{''.join(map(_article, results))}</main>\n"
        '<footer class="soft"><p>Numbers are means over the demo\'s own samples with 95 % bootstrap intervals. '
        "They describe the weights named here, not the published models.</p></footer>\n</body>\n</html>\n"
    )


def _overview(results: Sequence[Result]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{escape(r.ran.method.name)}">{escape(r.ran.method.name)}</a></td><td>{_state(r)}</td>'
        f'<td class="number">{r.ran.seconds:.1f}</td><td>{escape(r.ran.method.summary)}</td></tr>\n'
        for r in results
    )
    head = '<tr><th>Method</th><th>Demo</th><th class="number">Seconds</th><th>What it does</th></tr>\n'
    return f'<div class="scroll"><table>\n{head}{rows}</table></div>\n'


def _state(result: Result) -> str:
    return '<span class="good">done</span>' if result.ok else '<span class="bad">failed</span>'


def _article(result: Result) -> str:
    method = result.ran.method
    parts = [
        f'<article id="{escape(method.name)}">\n<h2>{escape(method.name)} ',
        f'<span class="soft">{escape(method.version)}</span></h2>\n',
        f"<p>{escape(method.summary)}</p>\n" if method.summary else "",
        f'<p class="soft">{_state(result)} in {result.ran.seconds:.1f} seconds, start and imports included</p>\n',
        f"<pre>{escape(result.ran.command)}</pre>\n",
        "".join(f'<p class="bad">{escape(error)}</p>\n' for error in result.errors),
        f"<pre>{escape(result.ran.log)}</pre>\n" if result.ran.log else "",
    ]
    if result.panel:
        about = f"{method.name}: inputs and synthetic outputs side by side"
        parts.append(f'<figure class="panel">{_img(result.panel, about)}</figure>\n')
    parts += [_metrics(result.metrics), _raw(result), _record(result.run)]
    return "".join(parts) + "</article>\n"


def _img(shot: Shot, about: str) -> str:
    data = base64.b64encode(shot.path.read_bytes()).decode("ascii")
    kind = ' class="tiny"' if max(shot.width, shot.height) < 160 else ""
    return (
        f'<img{kind} width="{shot.width}" height="{shot.height}" alt="{escape(about)}" '
        f'src="data:{MEDIA[shot.path.suffix.lower()]};base64,{data}">'
    )


def _raw(result: Result) -> str:
    if not result.raw and not result.files:
        return ""
    figures = "".join(
        f"<figure>{_img(shot, f'{result.ran.method.name} output {shot.name}, synthetic')}"
        f"<figcaption>{escape(shot.name)}<br>{shot.width} × {shot.height}</figcaption></figure>\n"
        for shot in result.raw
    )
    others = ", ".join(f"<code>{escape(name)}</code>" for name in result.files)
    return (
        f'<h3>Raw outputs</h3>\n<div class="raw">\n{figures}</div>\n'
        + (f'<p class="soft">Also written: {others}</p>\n' if others else "")
    )  # fmt: skip


def _metrics(metrics: dict[str, Any]) -> str:
    named = metrics.get("metrics")
    if not isinstance(named, dict) or not named:
        return ""
    rows = "".join(_metric(name, value) for name, value in named.items() if isinstance(value, dict))
    columns = "".join(f'<th class="number">{name}</th>' for name in ("Mean", "95 % interval", "n"))
    judges = metrics.get("backbones") or {}
    named_judges = "; ".join(f"{escape(str(k))}: {escape(str(v))}" for k, v in judges.items())
    return (
        f'<h3>Metrics</h3>\n<div class="scroll"><table>\n<tr><th>Metric</th>{columns}</tr>\n{rows}</table></div>\n'
        + (f'<p class="soft">Judged by {named_judges}</p>\n' if named_judges else "")
    )  # fmt: skip


def _metric(name: str, value: dict[str, Any]) -> str:
    limits = value.get("ci95") or []
    interval = f"{_number(limits[0])} to {_number(limits[1])}" if len(limits) == 2 else "not given"
    cells = [_number(value.get("mean")), interval, escape(str(value.get("n", "")))]
    return f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="number">{c}</td>' for c in cells) + "</tr>\n"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "not a number"


def _record(run: dict[str, Any]) -> str:
    if not run:
        return ""
    weights = run.get("weights") or {}
    peak = run.get("peak_memory_bytes")
    lines = {
        "Weights": f"{weights.get('name', 'none')} {str(weights.get('sha256', ''))[:16]}".strip(),
        "Seed": run.get("seed"),
        "Seconds by stage": ", ".join(f"{k} {v:.2f}" for k, v in (run.get("stages") or {}).items()),
        "Peak memory": f"{peak / 1e6:.0f} MB" if isinstance(peak, (int, float)) else None,
        "Versions": ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items()),
    }
    rows = "".join(f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>\n" for k, v in lines.items() if v not in (None, ""))
    table = f'<div class="scroll"><table>\n{rows}</table></div>\n'
    return f"<details><summary>How it was made</summary>\n{table}</details>\n"
