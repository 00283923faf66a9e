"""One run of one peer, and what else the machine was doing meanwhile."""
import datetime
import json
import os
import resource
import signal
import subprocess
import time

import peers

HZ = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
# Idle enough to begin.
QUIET = 0.85


def measure(line, command, patience, limit):
    """Runs it; the result is what the peer printed (or an `error`) with the line of the plan, the
    CPU seconds of the run, and the share of the machine that others took (0 to 1)."""
    wait_for_quiet(patience)
    arguments = ["--shape", line.shape, "--n", str(line.n), "--config", line.config]
    busy, own, start = busy_seconds(), own_seconds(), time.monotonic()
    report = run(command + arguments, limit)
    wall = time.monotonic() - start
    cpu = own_seconds() - own
    others = max(0.0, busy_seconds() - busy - cpu) / (wall * CORES)
    today = datetime.date.today().isoformat()
    return line._asdict() | report | {"cpu_s": round(cpu, 2), "others": round(others, 3), "date": today}


def run(command, limit):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A session of its own, so that it can be ended with all that it started, and nothing else.
    process = subprocess.Popen(command, env=peers.surroundings(), start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as why:  # the user's ctrl-c too
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(why, subprocess.TimeoutExpired):
            raise
        return {"error": f"not finished after {limit:.0f} s"}
    reports = [line for line in output.splitlines() if line.startswith("{")]
    if reports:
        return json.loads(reports[-1])
    words = errors.strip().splitlines() or ["it said nothing"]
    return {"error": f"ended with {process.returncode}: {words[-1]}"[:300]}


def wait_for_quiet(patience):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        busy = busy_seconds()
        time.sleep(2)
        if (busy_seconds() - busy) / (2 * CORES) <= 1 - QUIET:
            return


def busy_seconds():
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / HZ


def own_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
