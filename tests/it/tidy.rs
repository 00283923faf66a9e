//! The arrows of the layout, held by a test: who may know whom.

mod layers;
mod modules;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::layers::{EXCEPTIONS, LAYERS, code};
use self::modules::Module;

#[test]
fn arrows_point_one_way() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut unused: BTreeSet<_> = EXCEPTIONS.iter().collect();
    for layer in LAYERS {
        let files = rust_files(&package.join(layer.place));
        assert!(!files.is_empty(), "no code in {}", layer.place);
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(package).unwrap().display().to_string();
            for fault in layer.faults(&text) {
                let exception = (&*file, fault.name);
                match EXCEPTIONS.iter().find(|one| **one == exception) {
                    Some(exception) => drop(unused.remove(exception)),
                    None => found.push(format!(
                        "{file}:{}: {}: {}",
                        fault.number, fault.name, fault.line
                    )),
                }
            }
        }
    }
    assert!(found.is_empty(), "forbidden:\n{}", found.join("\n"));
    assert!(
        unused.is_empty(),
        "exceptions that nothing needs: {unused:?}"
    );
}

#[test]
fn every_folder_is_in_a_layer() {
    for entry in fs::read_dir(src()).unwrap() {
        let entry = entry.unwrap();
        let name = format!("src/{}", entry.file_name().display());
        let is_in_layer = LAYERS.iter().any(|layer| layer.place == name);
        assert!(is_in_layer || entry.path().is_file(), "{name} has no rule");
    }
}

/// Also by way of a facade, which a search for words does not see.
#[test]
fn stores_know_no_workflows() {
    let modules = modules::read(&src());
    let upward = |modules: &BTreeMap<Module, modules::Source>| -> Vec<String> {
        let below = [
            "persistence::store",
            "testing::failpoint",
            "testing::negative_control",
        ];
        let mut found = Vec::new();
        for (from, targets) in modules::arrows(modules) {
            let from = from.join("::");
            if from.starts_with("persistence::store") {
                let targets = targets.iter().map(|target| target.join("::"));
                let upward = targets.filter(|to| !below.iter().any(|one| to.starts_with(one)));
                found.extend(upward.map(|to| format!("{from} -> {to}")));
            }
        }
        found
    };
    assert_eq!(upward(&modules), [""; 0]);
    let planted = [
        ("persistence", "pub use self::records::audit::Audit;"),
        ("persistence::records::audit", "pub struct Audit;"),
        ("persistence::store::sled", "use crate::persistence::Audit;"),
    ];
    assert_eq!(
        upward(&planted.map(source_of).into()),
        ["persistence::store::sled -> persistence::records::audit"]
    );
}

/// A module, given by its path and its code.
fn source_of((path, text): (&str, &str)) -> (Module, modules::Source) {
    let source = modules::Source {
        path: PathBuf::new(),
        syntax: syn::parse_file(text).unwrap(),
    };
    (path.split("::").map(str::to_owned).collect(), source)
}

#[test]
fn only_the_clock_reads_time_and_draws_randomness() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        // A store draws its id without a clock: nothing is decided by that.
        if file.ends_with("src/clock.rs") || file.ends_with("persistence/store/fs/identity.rs") {
            continue;
        }
        for (number, line) in code(&fs::read_to_string(&file).unwrap()) {
            for word in ["SystemTime::now", "rand::", "thread_rng", "Uuid::now_v7"] {
                assert!(
                    !line.contains(word),
                    "{}:{number}: {word} belongs in src/clock.rs",
                    file.display()
                );
            }
        }
    }
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

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A module and those below it may name each other.
#[test]
fn modules_name_each_other_in_one_direction() {
    let modules = modules::read(&src());
    let circles = modules::circles(&modules::arrows(&modules));
    let shown = circles.iter().map(|circle| {
        let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
        format!("{}: {}\n", names.len(), names.join(", "))
    });
    assert!(circles.is_empty(), "\n{}", shown.collect::<String>());
}

/// What a build has for tests alone is in `testing/`; the code that calls it has no `cfg`.
#[test]
fn production_code_has_no_hooks_of_its_own() {
    for file in rust_files(&src()) {
        let path = file.display().to_string();
        if path.contains("src/testing/") || path.ends_with("src/lib.rs") {
            continue;
        }
        for (number, line) in code(&fs::read_to_string(&file).unwrap()) {
            let is_hook = line.contains("cfg") && line.contains("feature = \"__");
            assert!(!is_hook, "{path}:{number}: {line}");
        }
    }
}

#[test]
fn a_circle_is_found_also_by_way_of_what_a_module_shows_of_those_below_it() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let source = |text: &str| modules::Source {
        path: PathBuf::new(),
        syntax: syn::parse_file(text).unwrap(),
    };
    let crate_of = |files: &[(&str, &str)]| {
        let modules: BTreeMap<Module, _> = files
            .iter()
            .map(|(path, text)| (module(path), source(text)))
            .collect();
        modules::circles(&modules::arrows(&modules))
    };
    let facade = ("store", "pub(crate) use self::disk::Disk;");
    let below = ("store::disk", "use super::Disk; use crate::engine::Engine;");
    let user = (
        "engine",
        "use crate::store::Disk; fn f() { super::other::f() }",
    );
    let other = (
        "other",
        "#[cfg(test)] mod tests { use crate::engine::Engine; }",
    );
    let circle = vec![vec![module("engine"), module("store::disk")]];
    assert_eq!(crate_of(&[facade, below, user, other]), circle);
    // What a module and those below it name of each other is no circle, nor is what tests name.
    let harmless = ("store::disk", "use super::Disk;");
    assert_eq!(
        crate_of(&[facade, harmless, user, other]),
        [] as [Vec<Module>; 0]
    );
}

#[test]
fn a_function_named_as_a_question_answers_it_and_changes_nothing() {
    let mut faults = BTreeSet::new();
    for source in modules::read(&src()).values() {
        for fault in questions::faults(&source.syntax) {
            faults.insert(format!("{}: {fault}\n", source.path.display()));
        }
    }
    assert!(
        faults.is_empty(),
        "{}",
        faults.into_iter().collect::<String>()
    );
}

#[test]
fn a_question_that_changes_something_or_is_none_is_found() {
    for (text, is_fault) in [
        ("impl A { fn is_open(&self) -> bool { true } }", false),
        (
            "fn has_room(at: &Path) -> io::Result<bool> { Ok(true) }",
            false,
        ),
        ("#[cfg(test)] mod tests { fn is_open(a: &mut A) {} }", false),
        ("impl A { fn is_open(&mut self) -> bool { true } }", true),
        ("fn has_room(file: &mut File) -> bool { true }", true),
        ("trait A { fn may_start(&self) -> Result<()>; }", true),
        ("mod a { fn can_go() {} }", true),
    ] {
        let file = syn::parse_file(text).unwrap();
        assert_eq!(!questions::faults(&file).is_empty(), is_fault, "{text}");
    }
}
