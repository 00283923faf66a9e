//! What `examples/backlog` measures of a release build, held against a limit.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::tally::Tally;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Figure {
    /// How long it takes from an opening until so many tasks that were running are in their queue again.
    Requeued { orphans: u64, limit_ms: u64 },
    /// How much more a process has had resident with `most` single tasks pending than with `least`: the one
    /// that submits them, and the one that opens the store.
    Resident {
        store: &'static str,
        least: u64,
        most: u64,
        limit_mb: u64,
    },
}

impl Figure {
    /// Measures so often; each time is a trial.
    pub(crate) fn measure(self, program: &Path, trials: u64) -> Result<Tally, String> {
        let begun = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..trials {
            seen.push(match self {
                Self::Requeued { orphans, .. } => {
                    let [_, open] = backlog(program, "orphans", orphans, "sled")?;
                    number(&open, "requeued_ms")?
                }
                Self::Resident {
                    store, least, most, ..
                } => {
                    let few = backlog(program, "singles", least, store)?;
                    let many = backlog(program, "singles", most, store)?;
                    let mut growth = 0;
                    for (few, many) in few.iter().zip(&many) {
                        let [few, many] = [few, many].map(|part| number(part, "peak_rss_mb"));
                        growth = growth.max(many?.saturating_sub(few?));
                    }
                    growth
                }
            });
        }
        let (least, most) = (seen.iter().min(), seen.iter().max());
        let range = format!(
            "{} to {}",
            least.copied().unwrap_or_default(),
            most.copied().unwrap_or_default()
        );
        let (limit, measured) = match self {
            Self::Requeued { orphans, limit_ms } => (
                limit_ms,
                format!("{orphans} requeued in {range} ms, limit {limit_ms}"),
            ),
            Self::Resident {
                store,
                least,
                most,
                limit_mb,
            } => (
                limit_mb,
                format!(
                    "{store}: {range} MB more with {most} pending than with {least}, limit {limit_mb}"
                ),
            ),
        };
        Ok(Tally {
            trials,
            failures: seen.iter().filter(|seen| **seen > limit).count() as u64,
            time: begun.elapsed(),
            measured: vec![measured],
            ..Tally::default()
        })
    }
}

/// What the process that makes a backlog says, and the one that opens it.
fn backlog(program: &Path, shape: &str, n: u64, store: &str) -> Result<[Value; 2], String> {
    let output = Command::new(program)
        .args(["--shape", shape, "--n", &n.to_string(), "--store", store])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let parts: Result<Vec<Value>, _> = said.lines().map(serde_json::from_str).collect();
    match parts.map(<[Value; 2]>::try_from) {
        Ok(Ok(parts)) if output.status.success() => Ok(parts),
        _ => Err(format!("{}: {}\n{said}", program.display(), output.status)),
    }
}

fn number(part: &Value, name: &str) -> Result<u64, String> {
    let number = part[name].as_u64();
    number.ok_or_else(|| format!("no {name}: {part}"))
}
