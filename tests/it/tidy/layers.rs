//! The layers: what the code of each folder may not name.

/// A folder or file of the package, and what its code may not name.
pub(crate) struct Layer {
    pub(crate) place: &'static str,
    forbidden: &'static [&'static str],
}

const fn layer(place: &'static str, forbidden: &'static [&'static str]) -> Layer {
    Layer { place, forbidden }
}

/// From the top down.
pub(crate) const LAYERS: &[Layer] = &[
    layer(
        "macros/src",
        &["actix", "tokio", "serde", "sled", "redb", "std::env", "fs"],
    ),
    layer(
        "src/app",
        &[
            "bincode",
            "rmp",
            "rmp_serde",
            "rand",
            "crate::canvas::machine",
            "crate::testing",
        ],
    ),
    layer(
        "src/actors",
        &["crate::app", "crate::result", "sled", "redb"],
    ),
    layer(
        "src/eager",
        &[
            "actix",
            "tokio",
            "thread",
            "sled",
            "redb",
            "crate::messages",
            "crate::app",
            "crate::result",
            "crate::testing",
        ],
    ),
    layer(
        "src/result",
        &[
            "actix",
            "sled",
            "redb",
            "crate::app",
            "crate::task",
            "crate::actors",
            "crate::messages",
            "crate::eager",
            "crate::testing",
        ],
    ),
    layer(
        "src/task",
        &[
            "actix",
            "tokio::runtime",
            "tokio::spawn",
            "tokio::task",
            "tokio::time",
            "thread",
            "sled",
            "redb",
            "crate::app",
            "crate::actors",
            "crate::messages",
            "crate::eager",
            "crate::testing",
        ],
    ),
    layer(
        "src/backend",
        &[
            "actix",
            "sled",
            "redb",
            "crate::app",
            "crate::actors",
            "crate::eager",
            "crate::result",
        ],
    ),
    layer(
        "src/messages",
        &[
            "crate::persistence",
            "crate::actors",
            "crate::app",
            "sled",
            "redb",
            "crate::result",
        ],
    ),
    layer(
        "src/testing",
        &[
            "actix",
            "tokio",
            "redb",
            "crate::app",
            "crate::actors",
            "crate::eager",
            "crate::result",
            "crate::task",
        ],
    ),
    layer(
        "src/persistence",
        &[
            "actix",
            "crate::actors",
            "crate::messages",
            "crate::app",
            "crate::task",
            "crate::result",
        ],
    ),
    // Workflows, in a store of any kind.
    layer(
        "src/persistence/records",
        &[
            "tokio",
            "store::sled",
            "store::redb",
            "SledStore",
            "RedbStore",
        ],
    ),
    // Bytes only. (What a program may inspect of a store implements serde's traits.)
    layer(
        "src/persistence/store",
        &[
            "crate::canvas",
            "persistence::records",
            "bincode",
            "rmp",
            "rmp_serde",
            "serde_json",
        ],
    ),
    // A log in front of any base.
    layer(
        "src/persistence/store/wal",
        &["sled", "redb", "store::engine", "Engine"],
    ),
    layer(
        "src/canvas",
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
            "crate::error",
        ],
    ),
];

/// Files that still name what their layer may not. An exception that is no longer needed is a
/// fault.
pub(crate) const EXCEPTIONS: &[(&str, &str)] = &[
    ("src/messages/engine.rs", "crate::actors"),
    ("src/messages/task.rs", "crate::actors"),
];

impl Layer {
    /// Returns the lines of a file in this layer that name what they may not, each with its number
    /// and the forbidden name.
    pub(crate) fn faults(&self, text: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (number, line) in code(text) {
            for name in self.forbidden {
                if names(&line, name) {
                    faults.push(Fault {
                        number,
                        name,
                        line: line.clone(),
                    });
                }
            }
        }
        faults
    }
}

/// A line that names what it may not.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) number: usize,
    pub(crate) name: &'static str,
    pub(crate) line: String,
}

/// Returns the lines of a file that are code, without comments, what only documentation imports,
/// and the test module at its end.
pub(crate) fn code(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut code = Vec::new();
    let mut is_for_docs = false;
    for (number, line) in (1..).zip(text.lines()) {
        let is_skipped = std::mem::replace(&mut is_for_docs, line.trim() == "#[cfg(doc)]");
        let line = line.split("//").next().unwrap();
        if !is_skipped && !line.trim().is_empty() {
            code.push((number, line.to_owned()));
        }
    }
    code
}

/// Returns whether the line names `word` as a path or a part of one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
    })
}

/// Each name that a layer forbids is found in a path, and in no comment, test or longer word.
#[test]
fn a_forbidden_name_is_found_where_it_is_code() {
    for layer in LAYERS {
        for name in layer.forbidden {
            for line in [
                format!("use {name};"),
                format!("use {name}::Thing;"),
                format!("    let thing = {name}::thing(); // allowed"),
                format!("fn thing() -> Option<{name}> {{ None }}"),
            ] {
                let faults = layer.faults(&format!("//! A file.\n\n{line}\n"));
                assert!(
                    faults
                        .iter()
                        .any(|fault| fault.name == *name && fault.number == 3),
                    "{}: {line}: {faults:?}",
                    layer.place
                );
            }
            let harmless = format!(
                "// {name}::thing()\n/// [`{name}`]\n#[cfg(doc)]\nuse {name}::Thing;\nuse a{name}::Thing;\nuse {name}_b::Thing;\n\
                 #[cfg(test)]\nmod tests {{\n    use {name}::Thing;\n}}\n"
            );
            let faults = layer.faults(&harmless);
            assert!(
                faults.iter().all(|fault| fault.name != *name),
                "{}: {faults:?}",
                layer.place
            );
        }
    }
}

#[test]
fn a_name_of_another_layer_is_found_by_any_path() {
    for (place, line, is_fault) in [
        (
            "src/persistence/store",
            "use super::error::StoreError;",
            false,
        ),
        (
            "src/persistence/store",
            "let records = self.records()?;",
            false,
        ),
        (
            "src/persistence/store",
            "use crate::persistence::records::keys;",
            true,
        ),
        (
            "src/persistence/store",
            "fn id(key: &[u8]) -> crate::canvas::id::Id {",
            true,
        ),
        (
            "src/persistence/store/wal",
            "let base = sled::open(dir)?;",
            true,
        ),
        (
            "src/persistence/records",
            "use crate::persistence::store::Engine;",
            false,
        ),
        (
            "src/persistence/records",
            "let store = SledStore::open(to)?;",
            true,
        ),
        (
            "src/persistence/records",
            "use crate::persistence::store::sled::salvage;",
            true,
        ),
    ] {
        let layer = LAYERS.iter().find(|layer| layer.place == place).unwrap();
        assert_eq!(!layer.faults(line).is_empty(), is_fault, "{place}: {line}");
    }
}
