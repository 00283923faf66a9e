"""The runs as a table: medians, one row per peer and class."""
import json
import statistics
from pathlib import Path

import plan

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results.jsonl"
DOCUMENT = HERE.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

COLUMNS = [(shape, n) for shape, sizes in plan.SIZES.items() for n in sizes]


def one_line(run):
    what = f"{run['durability']} {run['peer']} {run['shape']} {run['n']}"
    if "error" in run:
        return f"{what}: {run['error']}"
    note = f" ({run['note']})" if run.get("note") else ""
    return f"{what}: {run['per_second']:,.0f}/s, others {run['others']:.0%}{note}"


def publish(runs):
    """Merges the runs into those on record, and writes the table into the document."""
    planned, new = set(plan.read()), {line(run) for run in runs}
    old = [json.loads(text) for text in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    runs = [run for run in old if line(run) in planned - new] + runs
    RESULTS.write_text("".join(json.dumps(run) + "\n" for run in runs))
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{after}")


def line(run):
    return plan.Line(*(run[field] for field in plan.Line._fields))


def table(runs):
    shapes = [f"{shape} of {n:,}" if shape != "latency" else "single: p50, p99" for shape, n in COLUMNS]
    heads = ["class", "engine", *shapes, "spread", "peak memory", "others"]
    rows = [heads, ["---", "---", *["--:"] * (len(heads) - 2)]]
    engines = {}
    for run in runs:
        engines.setdefault((run["durability"], run["peer"]), []).append(run)
    for durability in reversed(plan.CLASSES):
        of_class = [(peer, runs) for (at, peer), runs in engines.items() if at == durability]
        rows += [row(durability, peer, runs) for peer, runs in sorted(of_class, key=speed)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n\n" + provenance(runs)


def row(durability, peer, runs):
    def cell(shape, n):
        here = [run for run in runs if (run["shape"], run["n"]) == (shape, n)]
        done = [run for run in here if "error" not in run]
        if not here:
            return ""
        if not done:
            return "failed"
        failed = f", {len(here) - len(done)} failed" if len(done) < len(here) else ""
        if shape != "latency":
            return f"{median(done, 'per_second'):,.0f}{failed}"
        return f"{median(done, 'p50_us') / 1e3:.2g}, {median(done, 'p99_us') / 1e3:.2g} ms{failed}"

    memory = [run["rss_mb"] for run in runs if run.get("rss_mb")]
    return [
        durability,
        peer,
        *(cell(shape, n) for shape, n in COLUMNS),
        f"{spread(runs):.2g}",
        f"{max(memory):,.0f} MB" if memory else "",
        f"{median(runs, 'others'):.0%}",
    ]


def spread(runs):
    """How many times the slowest run of a line the fastest was, for the line that differs most."""
    rates = {}
    for run in runs:
        if "error" not in run:
            rates.setdefault(line(run), []).append(run["per_second"])
    return max((max(of) / min(of) for of in rates.values()), default=1)


def speed(engine):
    """The floor first, then by the larger group."""
    peer, runs = engine
    largest = max(run["n"] if run["shape"] == "group" else 0 for run in runs)
    rates = [run["per_second"] for run in runs if run["shape"] == "group" and "error" not in run and run["n"] == largest]
    return peer != "floor", -statistics.median(rates) if rates else 0


def provenance(runs):
    """Which version was measured when."""
    measured = {}
    for run in runs:
        if run.get("version"):
            measured.setdefault((run["peer"], run["version"]), set()).add(run["date"])
    return "; ".join(
        f"{peer} {version}, {' to '.join(dict.fromkeys([min(dates), max(dates)]))}"
        for (peer, version), dates in sorted(measured.items())
    ) + "."


def median(runs, field):
    return statistics.median(run[field] for run in runs)
