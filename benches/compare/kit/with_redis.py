#!/usr/bin/env python3
"""with_redis.py REDIS-SERVER COMMAND...: runs the command beside a Redis of its own.

The server listens on loopback, on a free port, over a folder that goes away with it. With `aof` in
the command's configuration it appends every write to a file and fsyncs that before it answers
(appendfsync always); otherwise it is as Debian ships it: snapshots now and then.
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SNAPSHOTS = ["--save", "3600 1 300 100 60 10000"]
ALWAYS = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]


def main():
    program, *command = sys.argv[1:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tempfile.mkdtemp(prefix="redis-")
    keep = ALWAYS if "aof" in command[-1].split(",") else SNAPSHOTS
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", data]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([program, *where, "--daemonize", "no", *keep], **quiet)
    try:
        wait_for(port, server)
        address = {"REDIS_URL": f"redis://127.0.0.1:{port}", "REDIS_PID": str(server.pid)}
        return subprocess.call(command, env=os.environ | address)
    finally:
        server.kill()  # its folder is thrown away
        server.wait()
        shutil.rmtree(data, ignore_errors=True)


def wait_for(port, server):
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as client:
                client.sendall(b"PING\r\n")
                if client.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            time.sleep(0.02)
    sys.exit("redis-server does not answer")


sys.exit(main())
