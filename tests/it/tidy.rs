//! The arrows of the layout, held by a test: who may know whom.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder or file under `src`, and what its code may not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "canvas",
        &[
            "actix",
            "tokio",
            "sled",
            "redb",
            "rand",
            "Instant",
            "SystemTime::now",
            "crate::actors",
            "crate::messages",
            "crate::persistence",
            "crate::app",
            "crate::task",
            "crate::result",
        ],
    ),
    (
        "persistence",
        &[
            "actix",
            "crate::actors",
            "crate::messages",
            "crate::app",
            "crate::task",
            "crate::result",
        ],
    ),
    (
        "messages",
        &[
            "crate::persistence",
            "crate::actors",
            "crate::app",
            "sled",
            "redb",
            "crate::result",
        ],
    ),
    ("actors", &["crate::app", "crate::result", "sled", "redb"]),
    (
        "eager",
        &[
            "actix",
            "tokio",
            "thread",
            "sled",
            "redb",
            "crate::messages",
            "crate::app",
            "crate::result",
        ],
    ),
];

#[test]
fn arrows_point_one_way() {
    let mut found = Vec::new();
    for (place, words) in FORBIDDEN {
        let files = rust_files(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src")
                .join(place),
        );
        assert!(!files.is_empty(), "no code under src/{place}");
        for file in files {
            for (number, line) in code(&file) {
                for word in *words {
                    if names(&line, word) {
                        found.push(format!("{}:{number}: {word}: {line}", file.display()));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "forbidden:\n{}", found.join("\n"));
}

#[test]
fn only_the_clock_reads_time_and_draws_randomness() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        // A store draws its id without a clock: nothing is decided by that.
        if file.ends_with("actors/clock.rs") || file.ends_with("persistence/identity.rs") {
            continue;
        }
        for (number, line) in code(&file) {
            for word in ["SystemTime::now", "rand::", "thread_rng", "Uuid::now_v7"] {
                assert!(
                    !line.contains(word),
                    "{}:{number}: {word} belongs in actors/clock.rs",
                    file.display()
                );
            }
        }
    }
}

/// The lines of a file that are code: no comments, no test module at its end.
fn code(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.split("//").next().unwrap().to_owned()))
        .filter(|(_, line)| !line.trim().is_empty())
        .collect()
}

/// Says whether the line names `word` as a path or a part of one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
    })
}

fn rust_files(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files
}
