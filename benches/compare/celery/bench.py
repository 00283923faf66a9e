"""Celery with Redis as broker and result backend. Configuration: prefork-PROCESSES[,late][,aof]

late: acks_late and task_reject_on_worker_lost, without which a worker that dies takes the tasks that it
had fetched with it. aof: see with_redis.py. Only both together keep what was acknowledged.
"""
import os
import sys
from pathlib import Path

import shapes

config = shapes.arguments().config
os.environ["CELERY_ACKS_LATE"] = "1" if "late" in shapes.options(config) else ""

import celery
import tasks
from celery import chain, chord, group

SECONDS = 300


def run_group(n):
    return group(tasks.noop.s(i) for i in range(n)).apply_async().get(timeout=SECONDS)


def run_chord(n):
    header = (tasks.noop.s(i) for i in range(n))
    return chord(header, tasks.total.s()).apply_async().get(timeout=SECONDS)


def run_chain(n):
    steps = [tasks.increment.s() for _ in range(n - 1)]
    return chain(tasks.increment.s(0), *steps).apply_async().get(timeout=SECONDS)


def run_one(i):
    return tasks.noop.delay(i).get(timeout=SECONDS)


pool, processes = config.split(",")[0].split("-")
quiet = ["-l", "CRITICAL", "--without-gossip", "--without-mingle", "--without-heartbeat"]
worker = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", pool, "-c", processes, *quiet]
shapes.main(celery.__version__, (worker, Path(__file__).parent), run_group, run_chord, run_chain, run_one)
