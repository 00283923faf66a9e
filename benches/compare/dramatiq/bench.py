"""Dramatiq with Redis as broker and result backend. Configuration: PPROCESSES-TTHREADS[,mget][,aof]

mget: the chord's body, which is given no results, fetches them by the thousand with the backend's own
keys, instead of one by one. aof: see with_redis.py.
"""
import re
import sys
import uuid
from pathlib import Path

import dramatiq
import shapes
import tasks
from dramatiq import group, pipeline

MILLISECONDS = 300_000
WAIT = {"block": True, "timeout": MILLISECONDS}

config = shapes.arguments().config
total = tasks.total_of_many if "mget" in shapes.options(config) else tasks.total


def run_group(n):
    return list(group(tasks.noop.message(i) for i in range(n)).run().get_results(**WAIT))


def run_chord(n):
    name = uuid.uuid4().hex
    body = total.message(name, n)
    header = group(tasks.member(name, i) for i in range(n))
    header.add_completion_callback(body)
    header.run()
    # The callback is sent under the message's own id, so its result can be waited for.
    return body.get_result(backend=tasks.backend, **WAIT)


def run_chain(n):
    steps = [tasks.increment.message() for _ in range(n - 1)]
    return pipeline([tasks.increment.message(0), *steps]).run().get_result(**WAIT)


def run_one(i):
    return tasks.noop.send(i).get_result(backend=tasks.backend, **WAIT)


processes, threads = re.match(r"P(\d+)-T(\d+)", config).groups()
worker = [sys.executable, "-m", "dramatiq", "tasks", "--processes", processes, "--threads", threads]
shapes.main(dramatiq.__version__, (worker, Path(__file__).parent), run_group, run_chord, run_chain, run_one)
