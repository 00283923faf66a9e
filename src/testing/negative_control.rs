//! Negative controls: a rule of RELIABILITY.md switched off, so that a test that is meant to hold it can
//! be seen to turn red.
//!
//! `CHORDAL_WITHOUT=H1` (or several, `H1,H4`) does so in a debug build with the feature `__fault_tests`,
//! which the tests have and no user needs. Every other build ignores it.

/// The variable that names the rules that are off.
#[cfg(any(test, all(debug_assertions, feature = "__fault_tests")))]
pub(crate) const WITHOUT: &str = "CHORDAL_WITHOUT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// No fsync of our own.
    H1,
    /// Torn snapshots stay.
    H2,
    /// A first open that was cut short is gone on with.
    H3,
    /// What is missing is not looked for.
    H4,
    /// sled's segments are written over before what replaces them is on disk.
    H13,
}

/// Says whether the rule is off.
#[inline]
pub(crate) fn without(_rule: Rule) -> bool {
    #[cfg(all(debug_assertions, feature = "__fault_tests"))]
    return switches::off().contains(&_rule);
    #[cfg(not(all(debug_assertions, feature = "__fault_tests")))]
    false
}

#[cfg(all(debug_assertions, feature = "__fault_tests"))]
mod switches {
    use std::sync::OnceLock;

    use tracing::warn;

    use super::{Rule, WITHOUT};

    /// Returns the rules that this process has off.
    pub(crate) fn off() -> &'static [Rule] {
        static OFF: OnceLock<Vec<Rule>> = OnceLock::new();
        OFF.get_or_init(named)
    }

    fn named() -> Vec<Rule> {
        let names = std::env::var(WITHOUT).unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        let rules: Vec<_> = names.map(rule).collect();
        if !rules.is_empty() {
            warn!(?rules, "the store breaks these rules, as it was told to");
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
}
