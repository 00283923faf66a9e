//! Negative controls: switch a rule of RELIABILITY.md off, to show that the test that covers it
//! fails.
//!
//! `CHORDAL_WITHOUT=H1` (or several, `H1,H4`) does so in a debug build. Release builds ignore it.

use std::sync::OnceLock;

use tracing::warn;

/// The variable that names the rules to switch off.
pub(crate) const WITHOUT: &str = "CHORDAL_WITHOUT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Off: no fsync of our own.
    H1,
    /// Off: torn snapshots are kept.
    H2,
    /// Off: an interrupted first open is continued.
    H3,
    /// Off: missing parts of a store are not detected.
    H4,
    /// Off: sled overwrites its segments before their replacements are on disk.
    H13,
}

/// Returns whether the rule is switched off.
pub(super) fn without(rule: Rule) -> bool {
    static OFF: OnceLock<Vec<Rule>> = OnceLock::new();
    cfg!(debug_assertions) && OFF.get_or_init(named).contains(&rule)
}

fn named() -> Vec<Rule> {
    let names = std::env::var(WITHOUT).unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    let rules: Vec<_> = names.map(rule).collect();
    if !rules.is_empty() {
        warn!(
            ?rules,
            "the store breaks these rules because {WITHOUT} says so"
        );
    }
    rules
}

fn rule(name: &str) -> Rule {
    match name {
        "H1" => Rule::H1,
        "H2" => Rule::H2,
        "H3" => Rule::H3,
        "H4" => Rule::H4,
        "H13" => Rule::H13,
        other => panic!("{WITHOUT} knows H1 to H4 and H13, not {other:?}"),
    }
}
