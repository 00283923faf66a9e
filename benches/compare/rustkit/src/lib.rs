//! What the peers in Rust share: the arguments, a folder for the store, the one line of JSON.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// A run that takes longer counts as failed.
pub const LIMIT: Duration = Duration::from_secs(300);
/// How many tasks run before the clock starts.
pub const WARM_UP: usize = 200;

/// `--shape group|chord|chain|latency --n N --config C`
pub struct Arguments {
    pub shape: String,
    pub n: usize,
    pub config: String,
}

impl Arguments {
    pub fn parse() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let after = |name: &str| {
            let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
            pair.unwrap_or_else(|| panic!("{name} is missing"))[1].clone()
        };
        Self {
            shape: after("--shape"),
            n: after("--n").parse().expect("--n takes a number"),
            config: after("--config"),
        }
    }
}

/// A fresh folder on the disk that all stores are on; removed when dropped.
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(peer: &str) -> Self {
        let parent = PathBuf::from(std::env::var("BENCH_DATA").expect("BENCH_DATA is set"));
        let folder = parent.join(format!("{peer}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the store");
        Self(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // What is left is under target/.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the numbers below `n` add up to.
pub fn sum_below(n: usize) -> u64 {
    (0..n as u64).sum()
}

/// Prints how a run ended: with a note, or why it failed. `latencies` may be empty.
pub fn report(
    version: &str,
    arguments: &Arguments,
    seconds: f64,
    mut latencies: Vec<Duration>,
    end: Result<String, String>,
) {
    latencies.sort_unstable();
    let percentile = |share: f64| {
        let place = (latencies.len() as f64 * share).ceil() as usize;
        let latency = latencies.get(place.max(1) - 1);
        latency.map(|latency| latency.as_nanos() as f64 / 1e3)
    };
    let report = match end {
        Ok(note) => json!({
            "version": version,
            "seconds": seconds,
            "per_second": arguments.n as f64 / seconds,
            "p50_us": percentile(0.50),
            "p99_us": percentile(0.99),
            "rss_mb": peak_rss_mb(),
            "note": note,
        }),
        Err(error) => json!({ "version": version, "error": error }),
    };
    println!("{report}");
}

/// The most memory that the process has had resident, in MB of 1,000,000 bytes.
fn peak_rss_mb() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let kib = status.lines().find_map(|line| {
        let size = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
        size.parse::<u64>().ok()
    });
    json!(kib.map(|kib| kib * 1_024 / 1_000_000))
}
