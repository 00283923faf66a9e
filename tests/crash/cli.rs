//! The program as its users meet it: what it prints, and its exit status.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::Engine;
use crate::program::Program;

/// Exit status, standard output, standard error.
fn run(args: &[&str], path: &Path) -> (Option<i32>, String, String) {
    let args: Vec<&OsStr> = args
        .iter()
        .map(OsStr::new)
        .chain([path.as_os_str()])
        .collect();
    let output = Program::find(Engine::Sled).output(&args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn it_prints_one_object_and_the_stored_answer_when_asked_again() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("one"), "B a, b! (b)").unwrap();
    fs::write(home.path().join("two"), b"\xff").unwrap();
    fs::write(home.path().join("empty"), "").unwrap();
    // Within what is counted, and yet not counted itself.
    let data = home.path().join("data");
    let args = ["--json", "--top", "1", "--data-dir", data.to_str().unwrap()];
    let expected =
        json!({ "files": 2, "skipped": 1, "words": 4, "distinct": 2, "top": [["b", 3]] });
    for known in ["", "the answer was there already: 1 of 1 chunks\n"] {
        let (status, out, err) = run(&args, home.path());
        assert_eq!((status, err.as_str()), (Some(0), known));
        assert_eq!(out.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }
    fs::write(home.path().join("two"), "c").unwrap();
    let (_, out, err) = run(&args, home.path());
    assert!(
        out.contains("\"distinct\":3") && err.is_empty(),
        "{out}{err}"
    );
}

#[test]
fn a_corpus_of_nothing_has_no_words() {
    let home = tempfile::tempdir().unwrap();
    let (status, out, _) = run(&["--json"], home.path());
    let nothing = json!({ "files": 0, "skipped": 0, "words": 0, "distinct": 0, "top": [] });
    assert_eq!(status, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), nothing);
}

#[test]
fn a_path_that_is_not_there_is_named_and_wrong_usage_is_told_apart() {
    let (status, out, err) = run(&["--json"], Path::new("/no/such/path"));
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(err.contains("/no/such/path"), "{err}");
    let (status, out, _) = run(&["--chunk-bytes", "0"], Path::new("."));
    assert_eq!((status, out.as_str()), (Some(2), ""));
}
