"""FlexiQ over a SQLite file (WAL, synchronous=NORMAL: no fsync per commit).
Configuration: WWORKERS,batch=N[,poll=MS][,map][,tight]

batch, poll: how much its scheduler takes at once, and how often. map: a group goes in as one
transaction (task.map) instead of one per task. tight: the caller looks for a result every millisecond
instead of every 50, and runs a chain's steps itself, as chain.apply does.
"""
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path

import shapes

SECONDS = 300

options = shapes.options(shapes.arguments().config)
folder = tempfile.TemporaryDirectory(prefix="flexiq-", ignore_cleanup_errors=True)
workers = next(name[1:] for name in options if name.startswith("W"))
os.environ |= {"FLEXIQ_DB": f"{folder.name}/queue.db", "FLEXIQ_WORKERS": workers}
os.environ |= {"FLEXIQ_BATCH": options["batch"], "FLEXIQ_POLL": options.get("poll", "")}
wait = {"timeout": SECONDS}
if "tight" in options:
    wait |= {"poll_interval": 0.001, "max_poll_interval": 0.005}

import tasks
from flexiq import chain, chord, group


def members(n):
    return group(*[tasks.noop.s(i) for i in range(n)])


def run_group(n):
    jobs = tasks.noop.map([(i,) for i in range(n)]) if "map" in options else members(n).apply()
    return [job.result(**wait) for job in jobs]


def run_chord(n):
    return chord(members(n), tasks.total.s()).apply().result(**wait)


def run_chain(n):
    if "tight" not in options:
        steps = [tasks.increment.s() for _ in range(n - 1)]
        return chain(tasks.increment.s(0), *steps).apply().result(**wait)
    value = 0
    for _ in range(n):
        value = tasks.increment.delay(value).result(**wait)
    return value


def run_one(i):
    return tasks.noop.delay(i).result(**wait)


version = importlib.metadata.version("flexiq")
worker = [str(Path(sys.executable).with_name("flexiq")), "worker", "--app", "tasks:queue"]
os.environ["PYTHONPATH"] += f":{Path(__file__).parent}"
shapes.main(version, (worker, Path(__file__).parent), run_group, run_chord, run_chain, run_one)
