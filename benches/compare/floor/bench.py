"""No engine at all, through examples/floor. Configuration: spawn (tasks that are only spawned and
counted) or log (each appends 200 bytes and counts after the fdatasync that covers it, one per at most
256). A latency is that of one append with its fdatasync, on average.
"""
import json
import subprocess

import peers
import shapes

asked = shapes.arguments()
program = [str(peers.REPOSITORY / "target" / "release" / "examples" / "floor")]
what = ["--n", str(asked.n), "--runs", "1"]
run = json.loads(subprocess.run(program + what, check=True, capture_output=True).stdout)
report = {"version": ""}
if asked.shape == "latency":
    commit = run["commit_us"]
    report |= {"per_second": 1e6 / commit, "p50_us": commit, "p99_us": commit}
else:
    report |= {"per_second": run[f"{asked.config}_per_second"]}
print(json.dumps(report | {"seconds": asked.n / report["per_second"]}))
