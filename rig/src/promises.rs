//! What is promised, and by which checks each promise is tried. RELIABILITY.md says how.

use crate::figures::Figure;
use crate::suite::Suite::{self, *};

/// Tests that are run in one go.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) suite: Suite,
    /// What the names of its tests begin with or have in them.
    pub(crate) tests: &'static [&'static str],
    pub(crate) trials: Trials,
    /// What is measured in place of tests.
    pub(crate) figure: Option<Figure>,
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trials {
    /// As often as this variable says: in a short run, and in the one that is meant for each change.
    Set(&'static str, u64, u64),
    /// As the tests have it.
    Fixed,
}

use Trials::{Fixed, Set};

const fn check(
    name: &'static str,
    suite: Suite,
    tests: &'static [&'static str],
    trials: Trials,
) -> Check {
    Check {
        name,
        suite,
        tests,
        trials,
        figure: None,
    }
}

const fn figure(name: &'static str, figure: Figure, quick: u64, whole: u64) -> Check {
    Check {
        name,
        suite: Backlog,
        tests: &[],
        trials: Set("", quick, whole),
        figure: Some(figure),
    }
}

pub(crate) const CHECKS: &[Check] = &[
    check(
        "kills",
        Crash,
        &["nothing_acknowledged_is_lost"],
        Set("CHORDAL_CRASH_RUNS", 4, 310),
    ),
    check("crashes", It, &["_crash", "crashes"], Fixed),
    check("seeds", Simulate, &[], Set("--seeds", 300, 20_000)),
    check(
        "points",
        It,
        &["points::"],
        Set("CHORDAL_POINT_RUNS", 12, 200),
    ),
    check(
        "points by name",
        Crash,
        &["failpoints::"],
        Set("CHORDAL_CRASH_RUNS", 20, 600),
    ),
    check(
        "power cuts",
        Unit,
        &["persistence::fault_tests::power::"],
        Set("CHORDAL_POWER_CUTS", 3, 30),
    ),
    check(
        "kills in openings",
        Unit,
        &["persistence::fault_tests::opening::"],
        Set("CHORDAL_OPENING_PLACES", 3, 1_000),
    ),
    check(
        "power cuts of a simulated disk",
        Unit,
        &["redb::tests::disk::"],
        Set("CHORDAL_POWER_TRIALS", 50, 500),
    ),
    check("salvage", It, &["salvage::"], Fixed),
    check(
        "kills of a store",
        Unit,
        &["fault_tests::kill::a_killed"],
        Fixed,
    ),
    check(
        "submissions",
        Crash,
        &["submit::"],
        Set("CHORDAL_CRASH_RUNS", 4, 150),
    ),
    check("submissions cut short", It, &["lazy::"], Fixed),
    check(
        "order",
        Unit,
        &["canvas::machine::tests", "member_order"],
        Fixed,
    ),
    check(
        "random canvases",
        It,
        &["property::", "member_order", "keeps_its_order"],
        Set("CHORDAL_PROPERTY_CASES", 100, 5_000),
    ),
    check("ids", Unit, &["canvas::id::"], Fixed),
    check("keys", It, &["idempotency", "ids_rise"], Fixed),
    check(
        "poison",
        Crash,
        &["poison::"],
        Set("CHORDAL_CRASH_RUNS", 10, 130),
    ),
    check("quarantine", Unit, &["canvas::quarantine"], Fixed),
    check(
        "kills in a row",
        Crash,
        &["row::"],
        Set("CHORDAL_CRASH_RUNS", 1, 240),
    ),
    check("orphans", It, &["cut_short", "recovery::"], Fixed),
    figure(
        "orphans in time",
        Figure::Requeued {
            orphans: 100_000,
            limit_ms: 1_000,
        },
        3,
        20,
    ),
    check(
        "rate limits",
        Unit,
        &[
            "rate_window::",
            "start_limits::",
            "rate_limit::",
            "limit_key::",
        ],
        Fixed,
    ),
    check(
        "rate limits in an app",
        It,
        &["rate_limits::", "keyed_limits::"],
        Fixed,
    ),
    check(
        "starvation",
        Unit,
        &["queue::tests", "a_line_of_low_priority"],
        Fixed,
    ),
    check("starvation in an app", It, &["starvation::"], Fixed),
    check("pauses", It, &["control::"], Fixed),
    check(
        "pauses over kills",
        Crash,
        &["control::"],
        Set("CHORDAL_CRASH_RUNS", 4, 200),
    ),
    check(
        "rate limits over kills",
        Crash,
        &["rate::"],
        Set("CHORDAL_CRASH_RUNS", 4, 200),
    ),
    check("policies", Unit, &["machine::tests::policies"], Fixed),
    check("policies in an app", It, &["canvas::policies::"], Fixed),
    check(
        "policies over kills",
        Crash,
        &["policies::"],
        Set("CHORDAL_CRASH_RUNS", 2, 400),
    ),
    check("schedules", Unit, &["schedule::"], Fixed),
    check("schedules of an app", It, &["schedules::"], Fixed),
    check(
        "schedules over kills",
        Crash,
        &["schedule::"],
        Set("CHORDAL_CRASH_RUNS", 16, 200),
    ),
    check("drain", It, &["drain::"], Fixed),
    check(
        "processes told to stop",
        Crash,
        &["drain::"],
        Set("CHORDAL_CRASH_RUNS", 10, 100),
    ),
    check(
        "revocations",
        Unit,
        &["machine::tests::revocation", "a_revoked_task"],
        Fixed,
    ),
    check("revocations in an app", It, &["canvas::revoke::"], Fixed),
    check(
        "locks",
        Unit,
        &[
            "names_the_holder_of_the_lock",
            "lock_file_of",
            "persistence::store::fs::data_dir::",
        ],
        Fixed,
    ),
    check("locks of an app", It, &["locked", "frees_"], Fixed),
    check(
        "two processes",
        Crash,
        &["locks::"],
        Set("CHORDAL_CRASH_RUNS", 6, 50),
    ),
    check(
        "versions",
        Unit,
        &["later_version", "newer_format", "of_the_other_engine"],
        Fixed,
    ),
    check(
        "versions of records",
        It,
        &["later_version", "golden::"],
        Fixed,
    ),
    check(
        "damage",
        Unit,
        &["fault_tests::damage::"],
        Set("CHORDAL_DAMAGE_TRIALS", 150, 250),
    ),
    check(
        "damage to frames and records",
        Unit,
        &["sled::tests::log", "sled::tests::base", "flipped_bit"],
        Fixed,
    ),
    check("damage to a whole store", It, &["upkeep::"], Fixed),
    check(
        "exchanged files",
        Unit,
        &[
            "fault_tests::exchange::",
            "sled::tests::identity",
            "persistence::store::fs::identity::",
        ],
        Fixed,
    ),
    check(
        "moved directories",
        Unit,
        &[
            "sled::tests::place",
            "sled::tests::links",
            "was_renamed",
            "is_deleted",
            "symbolic_link",
        ],
        Fixed,
    ),
    check(
        "moved directories of an app",
        It,
        &["errors::an_app_whose_directory"],
        Fixed,
    ),
    check(
        "missing descriptors",
        Unit,
        &["fault_tests::descriptors::", "sled::tests::shortage"],
        Fixed,
    ),
    check(
        "files of an app",
        Crash,
        &["files::"],
        Set("CHORDAL_CRASH_RUNS", 4, 60),
    ),
    check(
        "full disks",
        Crash,
        &["full::"],
        Set("CHORDAL_CRASH_RUNS", 4, 100),
    ),
    check("full disks of a store", Unit, &["tests::full"], Fixed),
    check("missing threads", Crash, &["threads::"], Fixed),
    check(
        "missing threads of the pool",
        Unit,
        &["backend::pool"],
        Fixed,
    ),
    check(
        "errors of the disk",
        Unit,
        &["persistence::fault_tests::errors::"],
        Set("CHORDAL_FAULT_PLACES", 3, 12),
    ),
    check(
        "a store that fails",
        It,
        &["fails_at_any_call", "a_store_that_fails"],
        Fixed,
    ),
    check("panics", It, &["panics::"], Fixed),
    check("pending", It, &["pending::", "backlog::"], Fixed),
    figure(
        "resident memory",
        Figure::Resident {
            store: "sled",
            least: 100_000,
            most: 200_000,
            limit_mb: 20,
        },
        1,
        3,
    ),
    figure(
        "resident memory over redb",
        Figure::Resident {
            store: "redb",
            least: 100_000,
            most: 200_000,
            limit_mb: 4,
        },
        1,
        3,
    ),
    check("payloads", It, &["payloads::"], Fixed),
    check("canaries", Logs, &[], Fixed),
    check("what is shown", Unit, &["debug_of_", "debug_shows"], Fixed),
    check(
        "any bytes",
        Unit,
        &["never_panics"],
        Set("PROPTEST_CASES", 1_000, 3_000),
    ),
    check("mutations", It, &["fuzz::", "hostile::"], Fixed),
    check("unknown names", It, &["unknown_name"], Fixed),
    check("changed signatures", It, &["parked::"], Fixed),
    check("clock steps", It, &["clock_steps::"], Fixed),
    check(
        "decisions on their way to the store",
        It,
        &["in_flight::"],
        Fixed,
    ),
];

#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) id: &'static str,
    pub(crate) words: &'static str,
    /// By name; none if what is promised is not built.
    pub(crate) checks: &'static [&'static str],
}

const fn promise(
    id: &'static str,
    words: &'static str,
    checks: &'static [&'static str],
) -> Promise {
    Promise { id, words, checks }
}

#[rustfmt::skip]
pub(crate) const PROMISES: &[Promise] = &[
    promise("G1", "what was acknowledged starts, or has ended", &["kills", "crashes", "seeds"]),
    promise("G2", "one end per task; late and doubled words are refused", &["seeds"]),
    promise("G3", "one body per chord, at most one errback", &["points", "points by name", "kills", "policies", "policies in an app", "policies over kills"]),
    promise("G4", "what was acknowledged survives kills and power cuts", &["kills", "kills of a store", "kills in openings", "power cuts", "power cuts of a simulated disk"]),
    promise("G5", "a submission is there as a whole or not at all", &["submissions", "submissions cut short"]),
    promise("G6", "results stand in member order", &["order", "random canvases"]),
    promise("G7", "ids never repeat; keys give the first submission", &["ids", "keys"]),
    promise("G8", "what is told of a revocation stays true", &["revocations", "revocations in an app", "seeds"]),
    promise("G9", "what ends the process is quarantined, nobody else is; new work does not wait for that", &["poison", "quarantine", "kills in a row"]),
    promise("G10", "what was running is taken up again at open", &["orphans", "orphans in time"]),
    promise("G11", "a stop lets end what runs and starts nothing", &["drain", "processes told to stop"]),
    promise("G12", "one process per store", &["locks", "locks of an app", "two processes"]),
    promise("G13", "what a later version has written is left untouched", &["versions", "versions of records"]),
    promise("G14", "damage and rollback are noticed, never served", &["damage", "damage to frames and records", "damage to a whole store", "exchanged files", "salvage"]),
    promise("G15", "a full disk loses nothing and is gone on from", &["full disks", "full disks of a store"]),
    promise("G16", "an error of the disk stops the engine for good", &["errors of the disk", "a store that fails"]),
    promise("G17", "a panic stays in its task", &["panics"]),
    promise("G18", "what is pending is bounded", &["pending", "resident memory", "resident memory over redb"]),
    promise("G19", "what is passed on is no larger than the limit", &["payloads"]),
    promise("G20", "what is passed on is not shown", &["canaries", "what is shown"]),
    promise("G24", "any bytes are read without a panic; unknown names wait", &["any bytes", "mutations", "unknown names"]),
    promise("G25", "each tick of a schedule is submitted exactly once", &["schedules", "schedules of an app", "schedules over kills"]),
    promise("G26", "a rate limit holds in every period, over restarts", &["rate limits", "rate limits in an app", "rate limits over kills", "seeds"]),
    promise("G28", "nothing starves under priorities, and a paused queue starts nothing", &["starvation", "starvation in an app", "pauses", "pauses over kills", "seeds"]),
    promise("G29", "without threads work waits or is refused, and nothing runs that was said to have failed", &["missing threads", "missing threads of the pool"]),
    promise("G30", "a directory that is moved or deleted stops the engine, and nothing else is written to", &["moved directories", "moved directories of an app"]),
    promise("G31", "a lack of descriptors passes, and an audit leaves nothing", &["missing descriptors", "files of an app"]),
    promise("G32", "a delay lasts as long as it says, a point in time is when the clock shows it", &["clock steps", "seeds"]),
    promise("G33", "what is forgotten, swept or looked up is so though the store does not show it yet", &["decisions on their way to the store", "seeds"]),
    promise("G34", "work that a build cannot run waits for one that can", &["changed signatures", "unknown names"]),
];

/// A rule that is switched off, and the check that must turn red without it.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) rule: &'static str,
    pub(crate) words: &'static str,
    pub(crate) check: Check,
    /// What it has to say: what the rule is there for, and no other failure.
    pub(crate) says: &'static str,
    /// Trials of each round, and how many rounds may pass before it has to be red.
    pub(crate) rounds: u64,
}

pub(crate) const CONTROLS: &[Control] = &[
    Control {
        rule: "H1",
        words: "no fsync of our own",
        check: check(
            "power cuts",
            Unit,
            &["persistence::fault_tests::power::a_power_cut_takes_nothing_from_sled_on_ext4"],
            Set("CHORDAL_POWER_CUTS", 40, 40),
        ),
        says: " trials: ",
        rounds: 3,
    },
    Control {
        rule: "H13",
        words: "sled's segments are written over before what replaces them is on disk",
        check: check(
            "power cuts in checkpoints",
            Unit,
            &["persistence::fault_tests::power::a_power_cut_takes_nothing_from_sled_on_xfs"],
            Set("CHORDAL_POWER_CUTS", 40, 40),
        ),
        says: " trials: ",
        rounds: 5,
    },
    Control {
        rule: "H2",
        words: "torn snapshots stay",
        check: check(
            "openings killed",
            Unit,
            &["persistence::fault_tests::opening::an_open_of_sled_that_is_killed_anywhere"],
            Set("CHORDAL_OPENING_PLACES", 1_000, 1_000),
        ),
        says: " trials: ",
        rounds: 1,
    },
    Control {
        rule: "H3",
        words: "a first open that was cut short is gone on with",
        check: check(
            "first openings killed",
            Unit,
            &["persistence::fault_tests::opening::a_first_open_of_sled_that_is_killed_anywhere"],
            Set("CHORDAL_OPENING_PLACES", 1_000, 1_000),
        ),
        says: " trials: ",
        rounds: 1,
    },
    Control {
        rule: "H4",
        words: "what is missing is not looked for",
        check: check(
            "damage",
            Unit,
            &["fault_tests::damage::a_damaged_sled_store"],
            Set("CHORDAL_DAMAGE_TRIALS", 150, 150),
        ),
        says: "served with commits missing",
        rounds: 1,
    },
    Control {
        rule: "H4",
        words: "files of another store are not looked for",
        check: check(
            "exchanged files",
            Unit,
            &["fault_tests::exchange::a_file_of_another_store_is_never_served_as_one_of_sleds"],
            Fixed,
        ),
        says: "not what it held",
        rounds: 1,
    },
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::suite::root;

    /// A filter that matches no test tries nothing, and its check is green by the other filters.
    #[test]
    fn every_filter_matches_a_test() {
        let controls = CONTROLS.iter().map(|control| &control.check);
        for check in CHECKS.iter().chain(controls) {
            let folder = match check.suite {
                Unit => "src",
                It => "tests/it",
                Crash => "tests/crash",
                Logs => "tests/logs",
                Simulate | Backlog | MapReduce => continue,
            };
            let mut names = Vec::new();
            add_tests(&root().join(folder), &[], &mut names);
            for filter in check.tests {
                assert!(
                    names.iter().any(|name| name.contains(filter)),
                    "{}: no test in {folder} has {filter} in its name",
                    check.name
                );
            }
        }
    }

    #[test]
    fn a_test_is_named_by_its_modules() {
        let text = "
            #[test]
            fn outer() {}

            mod tests {
                /// No test.
                fn helper() {}

                #[tokio::test(flavor = \"current_thread\")]
                #[ignore]
                async fn inner() {}
            }

            #[test]
            fn last() {}
        ";
        let mut names = Vec::new();
        add_tests_of(text, &["canvas".to_owned()], &mut names);
        assert_eq!(
            names,
            ["canvas::outer", "canvas::tests::inner", "canvas::last"]
        );
    }

    /// Adds the names of all tests below this folder, which holds the module at `path`.
    fn add_tests(folder: &Path, path: &[String], names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            let stem = entry.file_stem().unwrap().to_str().unwrap();
            let module = match stem {
                "mod" | "main" | "lib" => path.to_vec(),
                stem => [path, &[stem.to_owned()]].concat(),
            };
            if entry.is_dir() {
                add_tests(&entry, &module, names);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                add_tests_of(&fs::read_to_string(&entry).unwrap(), &module, names);
            }
        }
    }

    /// Adds the names of the tests in this text, which rustfmt has formatted.
    fn add_tests_of(text: &str, path: &[String], names: &mut Vec<String>) {
        let mut path = path.to_vec();
        let mut open = Vec::new();
        let mut is_test = false;
        for line in text.lines() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let name = |code: &str| {
                let end = code.find(|c: char| !c.is_alphanumeric() && c != '_');
                code[..end.unwrap_or(code.len())].to_owned()
            };
            if let Some(module) = code.strip_prefix("mod ").filter(|_| code.ends_with('{')) {
                path.push(name(module));
                open.push(indent);
            } else if code == "}" && open.last() == Some(&indent) {
                path.pop();
                open.pop();
            } else if code.starts_with("#[test") || code.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(function) = code.trim_start_matches("async ").strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                names.push([&path[..], &[name(function)]].concat().join("::"));
            }
        }
    }
}
