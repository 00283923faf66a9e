//! The dependencies, held to `deny.toml` where cargo-deny is not installed: licences, sources, and that
//! no exception outlives what it is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deny() -> toml::Table {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    text.parse().unwrap()
}

/// All packages that a build on this machine takes, tests and benchmarks included.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--all-features", "--filter-platform=host-tuple"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let is_built = |package: &&Value| nodes.iter().any(|node| node["id"] == package["id"]);
    packages.filter(is_built).cloned().collect()
}

#[test]
fn each_dependency_has_a_licence_that_is_allowed_and_comes_from_crates_io() {
    let deny = deny();
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let (name, source) = (&package["name"], &package["source"]);
        let is_known =
            source.is_null() || *source == "registry+https://github.com/rust-lang/crates.io-index";
        assert!(is_known, "{name} is from {source}");
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{name}: {licence:?}");
    }
}

#[test]
fn each_exception_is_for_a_version_that_is_locked() {
    let deny = deny();
    let text = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = text.parse().unwrap();
    let locked = lock["package"].as_array().unwrap();
    let exceptions = deny["advisories"]["ignore"].as_array().unwrap();
    for exception in exceptions {
        let reason = exception["reason"].as_str().unwrap();
        let mut words = reason.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap());
        let of_name: Vec<_> = locked
            .iter()
            .filter(|package| package["name"].as_str() == Some(name))
            .map(|package| package["version"].as_str().unwrap())
            .collect();
        assert_eq!(of_name, [version], "{reason}");
    }
}

/// Says whether one of the choices that this expression of licences leaves is allowed throughout.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let is_allowed = either(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression:?}");
    is_allowed
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut one = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        one |= both(words, allowed);
    }
    one
}

fn both(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut all = single(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        all &= single(words, allowed);
    }
    all
}

fn single(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    match words.next() {
        Some("(") => {
            let inner = either(words, allowed);
            assert_eq!(words.next(), Some(")"));
            inner
        }
        // One with an exception is not allowed by the name of the licence alone.
        Some(name) => {
            words
                .next_if_eq(&"WITH")
                .and_then(|_| words.next())
                .is_none()
                && allowed.contains(&name)
        }
        None => false,
    }
}

#[test]
fn an_expression_of_licences_is_allowed_as_a_whole() {
    let allowed = ["MIT", "Zlib"];
    let check = |expression| is_allowed(expression, &allowed);
    assert!(check("MIT") && check("GPL-3.0 OR MIT") && check("Apache-2.0/MIT"));
    assert!(check("(GPL-3.0 OR MIT) AND Zlib") && check("GPL-3.0 AND ISC OR Zlib"));
    assert!(!check("GPL-3.0") && !check("MIT AND GPL-3.0") && !check(""));
    assert!(!check("(MIT OR Zlib) AND ISC") && !check("MIT WITH some-exception"));
}
