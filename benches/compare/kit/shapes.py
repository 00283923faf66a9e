"""What the peers in Python share: the arguments, the shapes and their checks, the one line of JSON.

    shapes.main(version, worker, group, chord, chain, one)

`worker` is the command of the process that runs the tasks, and its folder. `group(n)` gives the list
of what n tasks gave, each its own number; `chord(n)` their sum and count; `chain(n)` the last value of
n steps that add one; `one(i)` the value of one task.
"""
import argparse
import contextlib
import json
import math
import os
import subprocess
import time

WARM_UP = 200


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", required=True, choices=["group", "chord", "chain", "latency"])
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--config", required=True)
    return parser.parse_args()


def options(config):
    """`a,b=2` as {"a": "", "b": "2"}."""
    parts = (part.partition("=") for part in config.split(","))
    return {name: value for name, _, value in parts}


def main(version, worker, group, chord, chain, one):
    asked = arguments()
    n, latencies, note = asked.n, [], ""
    with started(*worker):
        assert sorted(group(WARM_UP)) == list(range(WARM_UP))
        start = time.perf_counter()
        match asked.shape:
            case "group":
                values = group(n)
            case "chord":
                assert list(chord(n)) == [n * (n - 1) // 2, n], "the sum is wrong"
            case "chain":
                assert chain(n) == n, "the last value is wrong"
            case "latency":
                for i in range(n):
                    since = time.perf_counter()
                    assert one(i) == i
                    latencies.append(time.perf_counter() - since)
        seconds = time.perf_counter() - start
        if asked.shape == "group":
            assert sorted(values) == list(range(n)), "values are lost or wrong"
            note = "" if values == list(range(n)) else "not in the order of the members"
        memory = peak_memory_mb()
    report = {"version": version, "seconds": round(seconds, 6), "per_second": round(n / seconds, 1)}
    report |= {"p50_us": percentile(latencies, 0.5), "p99_us": percentile(latencies, 0.99)}
    print(json.dumps(report | {"rss_mb": memory, "note": note}), flush=True)


@contextlib.contextmanager
def started(command, folder):
    """The worker, until the end of the block."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, **quiet)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait()


def percentile(times, share):
    if not times:
        return None
    return round(sorted(times)[max(1, math.ceil(len(times) * share)) - 1] * 1e6, 1)


def peak_memory_mb():
    """The most that this process, all it started, and Redis have had resident, summed."""
    pids = {*tree(os.getpid()), *filter(None, [os.environ.get("REDIS_PID")])}
    return round(sum(map(peak_kib, pids)) * 1024 / 1e6, 1)


def tree(pid):
    """A process and all its descendants, parents first."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as children:
                    found += map(int, children.read().split())
    return found


def peak_kib(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
