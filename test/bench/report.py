"""What was measured, as lines, as a table in doc/benchmark.md, as a picture.

The text of doc/benchmark.md is written by people; only what stands between its
two markers is ours.
"""

import json
import os
import platform
import re
import time
from statistics import median
from xml.sax.saxutils import escape

from rows import TIMES_NEAR, reached


BEGIN = "<!-- figures: written by test/bench/run -->"
END = "<!-- end of figures -->"

SIGNS = {">=": "≥", "<=": "≤", "==": "exactly"}


def cpu_model():
    with open("/proc/cpuinfo") as file:
        names = re.findall(r"^model name\s*: (.*)", file.read(), re.M)
    return names[0] if names else platform.machine()


def peer_version():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "node", "package.json")) as file:
        return json.load(file)["dependencies"]["@better-auth/api-key"]


def machine(bench, load_average):
    psql = bench.server.psql
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 ** 30
    return {
        "Processor": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "Memory": f"{memory:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "PostgreSQL": psql("keys", "SHOW server_version")[0],
        "OpenSSL": bench.run(bench.server.compile("cold")).split()[1],
        "Node": bench.run("node", "--version").strip().lstrip("v"),
        "@better-auth/api-key": peer_version(),
        "amt_keys": psql("keys", "SELECT extversion FROM pg_extension WHERE extname = 'amt_keys'")[0],
        "Date": time.strftime("%Y-%m-%d"),
        "Load before the start": f"{load_average:.2f}",
    }


def describe(machine):
    return "\n".join(f"{name}: {value}" for name, value in machine.items())


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figure(value, unit):
    return f"{number(value)}{unit}" if unit == "/s" else f"{number(value)} {unit}"


def ratio(value):
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 2 else f"{value:.3f}"


def spread(result):
    if result.row.sense == "==":
        return ", ".join(f"{r:.0f}" for r in result.ratios)
    return f"{ratio(median(result.ratios))} ({ratio(min(result.ratios))} to {ratio(max(result.ratios))})"


def verdict(result):
    return {True: "reached", False: "not reached", None: ""}[reached(result)]


def reach(row):
    if row.sense is None:
        return "–"
    return f"{SIGNS[row.sense]} {row.reach:.2f}" if row.sense == "<=" else f"{SIGNS[row.sense]} {row.reach}"


def line(result):
    row = result.row
    figures = f"{figure(result.ours, row.unit)} beside {figure(result.theirs, row.unit)}"
    return (f"{row.name:9} {spread(result):26} {reach(row):9} {verdict(result):11} "
            f"{figures}{'; ' + result.note if result.note else ''}")


def table(results):
    yield "| measured | beside | figures | ratio (least to greatest) | reach | |"
    yield "| --- | --- | ---: | --- | --- | --- |"
    for result in results:
        row = result.row
        figures = figure(result.ours, row.unit)
        if row.sense != "==":
            figures += f" : {figure(result.theirs, row.unit)}"
        yield (f"| {row.measured} | {row.beside} | {figures} | {spread(result)} | {reach(row)} "
               f"| {'**not reached**' if reached(result) is False else verdict(result)} |")


def figures_text(machine, args, results):
    lines = [BEGIN, "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in machine.items()]
    lines += ["", f"{args.rounds} rounds of {args.seconds:g} s on each side, {args.rounds * TIMES_NEAR} in "
              "the first four rows, which are nearest to their reach.", ""]
    lines += list(table(results))
    notes = [(result.row.measured, result.note) for result in results if result.note]
    if notes:
        lines.append("")
        lines += [f"- {measured}: {note}." for measured, note in notes]
    return "\n".join(lines + ["", END])


def write(directory, machine, args, results):
    path = os.path.join(directory, "benchmark.md")
    with open(path) as file:
        before, rest = file.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w") as file:
        file.write(before + figures_text(machine, args, results) + after)
    os.makedirs(os.path.join(directory, "images"), exist_ok=True)
    with open(os.path.join(directory, "images", "benchmark.svg"), "w") as file:
        file.write(picture(machine, results))


# The picture: one bar for each row that has a label, drawn so that all reaches lie on
# one line. Ratios that have to be small are turned around for that, and a bar that would
# go far beyond is broken off.

WIDTH, LEFT, TOP_MARGIN, STEP = 880, 400, 92, 34
REACH_AT, SCALE_END = 250, 1.4

STYLE = """
.paper { fill: #ffffff; stroke: #d0d7de }
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.value { font-weight: 600 }
.bar { fill: #2da44e } .missed { fill: #d4730b }
.line { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }
.gap { stroke: #ffffff; stroke-width: 3; fill: none }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; stroke: #3d444d } text { fill: #f0f6fc } .small { fill: #9198a1 }
.bar { fill: #3fb950 } .missed { fill: #e3872d }
.line, .whisker { stroke: #f0f6fc } .gap { stroke: #0d1117 }
}
"""


def share(result, value):
    """How far a ratio is along the way to the reach: 1 is there."""
    reach = result.row.reach
    return reach / value if result.row.sense in ("<=", "==") else value / reach


def at(share):
    return LEFT + REACH_AT * min(share, SCALE_END)


def bar(result, y):
    value = share(result, median(result.ratios))
    ends = sorted(at(share(result, r)) for r in result.ratios)
    end = at(value)
    kind = "bar" if reached(result) else "bar missed"
    parts = [f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="18" rx="2"/>']
    if value > SCALE_END:
        parts.append(f'<path class="gap" d="M{end - 26:.1f} {y - 2} l-6 22 m9 0 l6 -22"/>')
    elif result.row.sense != "==":
        parts.append(f'<path class="whisker" d="M{ends[0]:.1f} {y + 5} v8 m0 -4 H{ends[-1]:.1f} m0 -4 v8"/>')
    shown = f"{median(result.ratios):.0f}" if result.row.sense == "==" else ratio(median(result.ratios))
    label_at = max(end, ends[-1]) + 8
    parts.append(f'<text x="{label_at:.1f}" y="{y + 14}"><tspan class="value">{shown}</tspan>'
                 f'<tspan class="small" dx="6">{reach(result.row)}</tspan></text>')
    return parts


LABELS = {
    "warm-1": ("Warm key, 1 client", "beside a SELECT of the same row"),
    "warm-8": ("Warm key, 8 clients", "beside a SELECT of the same row"),
    "warm-16": ("Warm key, 16 clients", "beside a SELECT of the same row"),
    "hot": ("One hot key, 16 clients", "beside a SELECT of the same row"),
    "digest-8": ("Warm key, 8 clients", "beside a look-up by a hash, which counts nothing"),
    "request": ("A whole request, 8 clients", "beside the same without amt_authenticate()"),
    "work": ("One hot key, 16 clients, 20 ms of work", "beside the work without verification"),
    "pattern": ("One hot key, 16 clients, 20 ms of work", "beside pgcrypto compare and UPDATE of last_used_at"),
    "connect-preloaded": ("First call in a new connection (less is better)", "beside a first SELECT"),
    "page": ("Newest 20 keys, among ten million (less is better)", "beside the page without row security and counts"),
    "create": ("amt_create_key, time (less is better)", "beside one raw EVP_PBE_scrypt"),
    "revoke": ("amt_revoke, time (less is better)", "beside a plain DELETE"),
    "cold": ("Cold key, time (less is better)", "beside one raw EVP_PBE_scrypt"),
    "herd": ("16 connections at once on one cold key", "runs of scrypt"),
    "wrong": ("Wrong secret on a warm key", "beside the right secret"),
    "many": ("10,000,000 keys", "beside 10,000 keys"),
    "crowd": ("200 clients, half of the calls by one key", "beside 16 clients"),
    "attack": ("Warm keys while cold ones are attacked", "beside no attack"),
    "peer-1": ("From Node, one after the other", "beside @better-auth/api-key"),
    "peer-8": ("From Node, 8 at once", "beside @better-auth/api-key"),
}


def picture(machine, results):
    results = [result for result in results if result.row.name in LABELS]
    height = TOP_MARGIN + STEP * len(results) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">',
        '<title id="t">Verification by amt_keys beside what it replaces: ratio and reach of each comparison</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        '<text class="title" x="20" y="32">amt_verify beside what it replaces</text>',
        '<text class="small" x="20" y="50">Median of the rounds’ ratios; thin lines from the least to the greatest. '
        "Each row has its own scale, so that all reaches lie on one line.</text>",
        f'<text class="small" x="{at(1)}" y="{TOP_MARGIN - 14}" text-anchor="middle">reach</text>',
        f'<path class="line" d="M{at(1)} {TOP_MARGIN - 8} V{height - 32}"/>',
    ]
    for i, result in enumerate(results):
        y = TOP_MARGIN + STEP * i
        title, beside = LABELS[result.row.name]
        parts += [f'<text x="{LEFT - 14}" y="{y + 7}" text-anchor="end">{escape(title)}</text>',
                  f'<text class="small" x="{LEFT - 14}" y="{y + 21}" text-anchor="end">{escape(beside)}</text>',
                  *bar(result, y)]
    what = ", ".join([f"PostgreSQL {machine['PostgreSQL'].split()[0]}", machine["Processor"], machine["Date"]])
    parts += [f'<text class="small" x="20" y="{height - 14}">{escape(what)}</text>', "</svg>", ""]
    return "\n".join(parts)
