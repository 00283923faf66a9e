//! `examples/celery_canvas`, run as a user runs it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::build::{chain, s};
use crate::cases;
use crate::compare::agree;

/// What it prints for these lines of standard input.
fn printed(lines: &[String]) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("cases.jsonl");
    std::fs::write(&input, lines.join("\n")).unwrap();
    let output = Command::new(program())
        .arg("-")
        .stdin(Stdio::from(File::open(input).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let parsed = text.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().unwrap()
}

/// Cargo has put it beside this test's own directory.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let name = format!("celery_canvas{}", std::env::consts::EXE_SUFFIX);
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "`cargo test` builds {program:?}; alone, this test needs `cargo build --examples` before it"
    );
    program
}

#[test]
fn each_recorded_case_has_its_line_in_order() {
    let cases = cases::recorded();
    let line = |case: &cases::Case| {
        let mut line = json!({"id": case.id, "canvas": case.canvas});
        if let Some(apply) = &case.apply {
            line["apply"] = apply.clone();
        }
        // Not to be read.
        line["expect"] = json!({"state": "SUCCESS", "result": "wrong"});
        line.to_string()
    };
    let lines: Vec<_> = cases.iter().map(line).collect();
    let outcomes = printed(&lines);
    assert_eq!(outcomes.len(), cases.len());
    for (case, outcome) in cases.iter().zip(&outcomes) {
        assert_eq!(outcome["id"], case.id);
        assert_eq!(agree(&case.expect, outcome), Ok(()), "{}", case.id);
    }
}

#[test]
fn a_bad_line_fails_alone_and_says_why() {
    let good = json!({"id": 1, "canvas": s("add", json!([1, 2]))});
    let unknown = chain(vec![s("add", json!([1, 2])), s("no_such_task", json!([]))]);
    let lines = [
        good.to_string(),
        "{".to_owned(),
        json!([1]).to_string(),
        json!({"id": "no canvas"}).to_string(),
        json!({"id": "no signature", "canvas": 7}).to_string(),
        json!({"id": "unknown", "canvas": unknown}).to_string(),
        json!({"id": "arity", "canvas": s("add", json!([1, 2, 3]))}).to_string(),
        good.to_string(),
    ];
    let outcomes = printed(&lines);
    assert_eq!(outcomes.len(), lines.len());
    for good in [&outcomes[0], &outcomes[7]] {
        assert_eq!(good["result"], 3, "{good}");
    }
    for refused in &outcomes[1..7] {
        assert_eq!(refused["state"], "FAILURE", "{refused}");
        assert_eq!(refused["error"]["type"], "CanvasError", "{refused}");
        assert_eq!(refused["executions"], json!({}), "{refused}");
    }
    assert_eq!(outcomes[5]["id"], "unknown");
    let why = outcomes[5]["error"]["message"].as_str().unwrap();
    assert!(
        why.contains("chain[1]") && why.contains("no_such_task"),
        "{why}"
    );
}
