import os

from celery import Celery

URL = os.environ["REDIS_URL"]
LATE = bool(os.environ.get("CELERY_ACKS_LATE"))

app = Celery("tasks", broker=f"{URL}/0", backend=f"{URL}/1")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
    result_expires=3600,
    task_acks_late=LATE,
    task_reject_on_worker_lost=LATE,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=64,
)


@app.task
def noop(i):
    return i


@app.task
def increment(i):
    return i + 1


@app.task
def total(values):
    return [sum(values), len(values)]
