"""plan.txt, one line per measurement."""
from pathlib import Path
from typing import NamedTuple

SIZES = {"group": [1_000, 10_000], "chord": [1_000, 10_000], "chain": [1_000], "latency": [500]}
CLASSES = ["none", "process", "power"]


class Line(NamedTuple):
    durability: str
    peer: str
    config: str
    shape: str
    n: int


def read():
    text = (Path(__file__).parents[1] / "plan.txt").read_text()
    return [line for row in text.splitlines() for line in lines(row.partition("#")[0].split())]


def lines(words):
    if not words:
        return
    durability, peer, config, *shapes = words
    assert durability in CLASSES, words
    for word in SIZES if shapes == ["all"] else shapes:
        shape, _, size = word.partition(":")
        for n in [int(size)] if size else SIZES[shape]:
            yield Line(durability, peer, config, shape, n)
