"""What each peer needs, and how it is called.

A peer is a folder: with a Cargo.toml it is a program to build, with a requirements.txt a bench.py in
a virtual environment of its own, with neither a bench.py over one of this repository's examples.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
REPOSITORY = HERE.parents[1]
HOME = REPOSITORY / "target" / "compare"
DATA = HOME / "data"


class CannotInstall(Exception):
    pass


def install(peer):
    """Returns the command that runs the peer, without its arguments."""
    DATA.mkdir(parents=True, exist_ok=True)
    folder = HERE / peer
    if (folder / "Cargo.toml").exists():
        build(folder, HOME / "cargo")
        return [str(HOME / "cargo" / "release" / f"bench-{peer}")]
    bench = str(folder / "bench.py")
    requirements = folder / "requirements.txt"
    if not requirements.exists():
        what = ["--package", "examples", "--example", "throughput", "--example", "floor"]
        build(REPOSITORY, REPOSITORY / "target", *what)
        return [sys.executable, bench]
    command = [str(environment(peer, requirements)), bench]
    if "redis" in requirements.read_text():
        return [sys.executable, str(HERE / "kit" / "with_redis.py"), redis_server(), *command]
    return command


def surroundings():
    """The environment variables of a run: every store is on the same disk."""
    own = {
        "BENCH_DATA": str(DATA),
        "TMPDIR": str(DATA),
        "PYTHONPATH": str(HERE / "kit"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return os.environ | own


def build(folder, target, *what):
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", *what]
    attempt(cargo, cwd=folder, env=os.environ | {"CARGO_TARGET_DIR": str(target)})


def environment(peer, requirements):
    venv = HOME / f"venv-{peer}"
    python = venv / "bin" / "python"
    installed = venv / "requirements.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        attempt([sys.executable, "-m", "venv", str(venv)])
        attempt([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        shutil.copy(requirements, installed)
    return python


def redis_server():
    if found := shutil.which("redis-server"):
        return found
    # Debian's redis-server package would start a service. The program itself is in redis-tools: it
    # is one with this tool, and goes by the name that it is called by.
    link = HOME / "redis-server"
    if not link.exists():
        attempt(["apt-get", "update", "-qq"])
        attempt(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "redis-tools"])
        link.unlink(missing_ok=True)
        link.symlink_to(shutil.which("redis-check-rdb") or "redis-check-rdb")
    return str(link)


def attempt(command, **options):
    print(f"+ {' '.join(command)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except OSError as error:
        raise CannotInstall(error) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]
        raise CannotInstall(f"{Path(command[0]).name}: {last}")
