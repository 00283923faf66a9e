//! The ledger that the program keeps, and what must hold of it whenever it was killed.
//!
//! Its lines are described in `examples/map_reduce/ledger.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Ledger {
    text: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Begin(Call),
    End(Call),
    Acked(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    what: String,
    id: String,
    attempt: u32,
    parent: String,
}

impl Call {
    /// The id under which its completion is acknowledged: a body's is its chord's.
    fn acked_as(&self) -> &str {
        if self.what == "map" {
            &self.id
        } else {
            &self.parent
        }
    }
}

pub(crate) fn path(home: &TempDir) -> PathBuf {
    home.path().join("ledger")
}

impl Ledger {
    pub(crate) fn read(home: &TempDir) -> Self {
        Self::parse(read(&path(home)))
    }

    fn parse(text: String) -> Self {
        let lines = text.lines().map(|line| {
            let line: Vec<&str> = line.split(' ').collect();
            let call = |what: &str, id: &str, attempt: &str, parent: &str| Call {
                what: what.to_owned(),
                id: id.to_owned(),
                attempt: attempt.parse().expect("an attempt is a number"),
                parent: parent.to_owned(),
            };
            match line[..] {
                ["begin", what, id, attempt, _, parent] => {
                    Line::Begin(call(what, id, attempt, parent))
                }
                ["end", what, id, attempt, _, parent] => Line::End(call(what, id, attempt, parent)),
                ["acked", id] => Line::Acked(id.to_owned()),
                _ => panic!("no line of a ledger: {line:?}"),
            }
        });
        Self {
            lines: lines.collect(),
            text,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// How many calls have begun.
    pub(crate) fn begun(&self) -> usize {
        let is_begin = |line: &&Line| matches!(line, Line::Begin(_));
        self.lines.iter().filter(is_begin).count()
    }

    /// How many different map tasks have begun.
    pub(crate) fn maps(&self) -> usize {
        self.begun_as("map").len()
    }

    /// How many map tasks are acknowledged.
    pub(crate) fn maps_acked(&self) -> u64 {
        let maps = self.begun_as("map");
        let acked: BTreeSet<&str> = self
            .lines
            .iter()
            .filter_map(|line| match line {
                Line::Acked(id) if maps.contains(id.as_str()) => Some(id.as_str()),
                _ => None,
            })
            .collect();
        acked.len() as u64
    }

    fn begun_as(&self, kind: &str) -> BTreeSet<&str> {
        self.lines
            .iter()
            .filter_map(|line| match line {
                Line::Begin(call) if call.what == kind => Some(call.id.as_str()),
                _ => None,
            })
            .collect()
    }

    /// What is wrong with the ledger of a run that has ended, however often it was killed.
    pub(crate) fn faults(&self, chunks: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let mut acked = BTreeSet::new();
        let mut ended = BTreeSet::new();
        let mut attempts: BTreeMap<&str, u32> = BTreeMap::new();
        let mut bodies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for line in &self.lines {
            match line {
                Line::Begin(call) => {
                    let Call {
                        what,
                        id,
                        attempt,
                        parent,
                    } = call;
                    if acked.contains(call.acked_as()) {
                        faults.push(format!("{what} {id} ran again after it was acknowledged"));
                    }
                    let before = attempts.insert(id, *attempt).unwrap_or(0);
                    if *attempt <= before {
                        faults.push(format!("{what} {id}: attempt {attempt} after {before}"));
                    }
                    if what != "map" {
                        bodies.entry(parent).or_default().insert(id);
                    }
                }
                Line::End(call) => {
                    ended.insert(call.acked_as());
                }
                Line::Acked(id) => {
                    if !ended.contains(id.as_str()) {
                        faults.push(format!("{id} was acknowledged and had never ended"));
                    }
                    acked.insert(id.as_str());
                }
            }
        }
        for (chord, bodies) in &bodies {
            if bodies.len() != 1 {
                faults.push(format!("chord {chord} had the bodies {bodies:?}"));
            }
        }
        for id in attempts.keys() {
            let is_body = bodies.values().any(|bodies| bodies.contains(id));
            if !is_body && !acked.contains(id) {
                faults.push(format!("map {id} was never acknowledged"));
            }
        }
        for chord in bodies.keys() {
            if !acked.contains(chord) {
                faults.push(format!("chord {chord} was never acknowledged"));
            }
        }
        if self.maps() != chunks {
            faults.push(format!("{} maps for {chunks} chunks", self.maps()));
        }
        let answers = self.begun_as("answer").len();
        if answers != 1 {
            faults.push(format!("{answers} bodies gave an answer"));
        }
        faults
    }
}

/// The text, or nothing if there is no such file yet.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 9] = [
        "begin map a 1 7 r",
        "end map a 1 7 r",
        "begin map b 1 7 r",
        "acked a",
        "begin map b 2 8 r",
        "end map b 2 8 r",
        "acked b",
        "begin answer c 1 8 r",
        "end answer c 1 8 r",
    ];

    #[track_caller]
    fn faults(lines: &[&str]) -> Vec<String> {
        Ledger::parse(lines.join("\n")).faults(2)
    }

    fn with(more: &[&'static str]) -> Vec<&'static str> {
        [&GOOD[..], more].concat()
    }

    #[test]
    fn a_ledger_in_order_has_no_faults() {
        assert_eq!(faults(&with(&["acked r"])), [""; 0]);
        assert_eq!(
            faults(&with(&[
                "begin answer c 2 9 r",
                "end answer c 2 9 r",
                "acked r"
            ])),
            [""; 0]
        );
        assert_eq!(Ledger::parse(GOOD.join("\n")).maps_acked(), 2);
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        for (fault, lines) in [
            ("map a ran again", with(&["acked r", "begin map a 2 9 r"])),
            (
                "answer c ran again",
                with(&["acked r", "begin answer c 2 9 r"]),
            ),
            (
                "map b: attempt 2 after 2",
                with(&["begin map b 2 9 r", "acked r"]),
            ),
            ("had the bodies", with(&["begin answer d 1 9 r", "acked r"])),
            (
                "2 bodies gave an answer",
                with(&["begin answer d 1 9 r", "acked r"]),
            ),
            ("chord r was never", with(&[])),
            (
                "3 maps for 2",
                with(&["begin map d 1 9 r", "end map d 1 9 r", "acked d", "acked r"]),
            ),
            ("map d was never", with(&["begin map d 1 9 r", "acked r"])),
            (
                "d was acknowledged and had never ended",
                with(&["begin map d 1 9 r", "acked d", "acked r"]),
            ),
            ("0 bodies gave an answer", GOOD[..7].to_vec()),
        ] {
            let faults = faults(&lines);
            assert!(
                faults.iter().any(|found| found.contains(fault)),
                "{fault}: {faults:?}"
            );
        }
    }
}
