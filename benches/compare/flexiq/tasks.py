import os

from flexiq import Queue

settings = {"scheduler_batch_size": int(os.environ["FLEXIQ_BATCH"])}
if poll := os.environ.get("FLEXIQ_POLL"):
    settings["scheduler_poll_interval_ms"] = int(poll)
queue = Queue(db_path=os.environ["FLEXIQ_DB"], workers=int(os.environ["FLEXIQ_WORKERS"]), **settings)


@queue.task(max_retries=0)
def noop(i):
    return i


@queue.task(max_retries=0)
def increment(i):
    return i + 1


@queue.task(max_retries=0, timeout=600)
def total(values):
    return [sum(values), len(values)]
