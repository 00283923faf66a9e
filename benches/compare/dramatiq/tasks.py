import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as Counters
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["REDIS_URL"]
# The client's default read timeout would break blocking pops that last longer.
backend = RedisBackend(url=f"{URL}/1?socket_timeout=900")
broker = RedisBroker(url=f"{URL}/0")
# Hooks after a task run in reverse: a result must be stored before the barrier opens.
broker.add_middleware(GroupCallbacks(Counters(url=f"{URL}/2")))
broker.add_middleware(Results(backend=backend, store_results=True, result_ttl=3_600_000))
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=0)
def noop(i):
    return i


@dramatiq.actor(max_retries=0)
def increment(i):
    return i + 1


def member(name, i):
    """A header's message whose id the body can tell; each member carries a copy of the body's message,
    so that cannot list the ids."""
    return Message(
        queue_name="default", actor_name="noop", args=(i,), kwargs={}, options={}, message_id=f"{name}-{i}"
    )


@dramatiq.actor(max_retries=0, time_limit=600_000)
def total(name, n):
    values = [backend.get_result(member(name, i), block=True, timeout=10_000) for i in range(n)]
    return [sum(values), len(values)]


@dramatiq.actor(max_retries=0, time_limit=600_000)
def total_of_many(name, n):
    values = []
    for start in range(0, n, 1000):
        pipe = backend.client.pipeline(transaction=False)
        for i in range(start, min(n, start + 1000)):
            pipe.lindex(backend.build_message_key(member(name, i)), 0)
        values += [backend.unwrap_result(backend.encoder.decode(raw)) for raw in pipe.execute()]
    return [sum(values), len(values)]
