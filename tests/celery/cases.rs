//! What a real Celery 5.7.0 did with some canvases.

use serde_json::Value;

/// One line of `cases_public.jsonl`.
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) canvas: Value,
    pub(crate) apply: Option<Value>,
    pub(crate) expect: Value,
}

pub(crate) fn recorded() -> Vec<Case> {
    let lines = include_str!("cases_public.jsonl").lines();
    let cases = lines.map(|line| {
        let mut case: Value = serde_json::from_str(line).unwrap();
        Case {
            id: case["id"].as_str().unwrap().to_owned(),
            canvas: case["canvas"].take(),
            apply: case.get("apply").cloned(),
            expect: case["expect"].take(),
        }
    });
    cases.collect()
}
