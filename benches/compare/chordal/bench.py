"""chordal itself, through examples/throughput. Configuration: its --durability."""
import json
import subprocess
import tomllib

import peers
import shapes

asked = shapes.arguments()
program = [str(peers.REPOSITORY / "target" / "release" / "examples" / "throughput"), "--json"]
what = ["--shape", asked.shape, "--n", str(asked.n), "--durability", asked.config]
run = json.loads(subprocess.run(program + what, check=True, capture_output=True).stdout)

package = tomllib.loads((peers.REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]
git = ["git", "-C", str(peers.REPOSITORY), "rev-parse", "--short", "HEAD"]
commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()

report = {"version": f"{package['version']} ({commit})"}
report |= {field: run[field] for field in ("seconds", "per_second", "p50_us", "p99_us")}
print(json.dumps(report | {"rss_mb": run["peak_rss_mb"]}))
