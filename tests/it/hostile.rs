//! Celery's JSON as nobody should write it: an error that says why, and never a panic.
//! (Hostile depth has a test in `celery_json.rs`.)

use chordal::Canvas;
use chordal::{Error, SubmitError};

/// Why it is refused.
fn refusal(text: &str) -> String {
    match Canvas::from_json(text) {
        Err(Error::Submit(SubmitError::Canvas { reason, .. })) => reason,
        other => format!("{other:?}"),
    }
}

#[test]
fn what_is_hostile_is_refused_with_a_reason() {
    let long = format!(r#"{{"task": {}}}"#, "9".repeat(100_000));
    let cases = [
        // Nothing, and things that are no text of JSON.
        ("", "this is not JSON: EOF"),
        ("\u{feff}{}", "this is not JSON"),
        ("{\"task\": \"t\"} {}", "this is not JSON: trailing"),
        (
            "{\"task\": \"\u{0}\"}",
            "this is not JSON: control character",
        ),
        ("{\"task\": \"t\", }", "this is not JSON"),
        ("{'task': 't'}", "this is not JSON"),
        ("{\"task\": NaN}", "this is not JSON"),
        // Halves of characters.
        (r#"{"task": "\ud800"}"#, "`task` must be a text"),
        (r#"{"task": "\udc00\ud800"}"#, "`task` must be a text"),
        (
            r#"{"task": "t", "args": ["\ud800"]}"#,
            "`args[0]` must be a text",
        ),
        (
            r#"{"task": "t", "kwargs": {"\ud800": 1}}"#,
            "`kwargs` cannot be read",
        ),
        (
            r#"{"task": "t", "kwargs": {"x": "\udfff"}}"#,
            "`kwargs.x` must be a text",
        ),
        // Numbers that no number holds.
        (
            r#"{"task": "t", "args": [1e999]}"#,
            "`args[0]` is 1e999: more than a float holds",
        ),
        (r#"{"task": "t", "options": {"priority": 256}}"#, "must be"),
        (r#"{"task": "t", "options": {"priority": -1}}"#, "must be"),
        (
            r#"{"task": "t", "options": {"countdown": 1e300}}"#,
            "must be",
        ),
        (
            r#"{"task": "t", "options": {"max_retries": 99999999999999999999}}"#,
            "must be",
        ),
        (
            r#"{"task": "t", "options": {"eta": "99999-99-99T99:99:99"}}"#,
            "must be",
        ),
        (
            r#"{"task": "t", "chord_size": -1}"#,
            "`chord_size` must be a number",
        ),
        (&long, "`task` must be a text, but is a long number"),
        // Types that are not meant.
        ("null", "must be an object"),
        ("[]", "must be an object"),
        (r#"{"task": ["t"]}"#, "`task` must be a text"),
        (r#"{"task": "t", "args": {}}"#, "`args` must be a list"),
        (
            r#"{"task": "t", "kwargs": []}"#,
            "`kwargs` must be an object",
        ),
        (
            r#"{"task": "t", "options": 1}"#,
            "`options` must be an object",
        ),
        (
            r#"{"task": "t", "immutable": "yes"}"#,
            "`immutable` must be",
        ),
        (r#"{"task": "t", "options": {"link": {}}}"#, ""),
        (r#"{"task": "celery.group", "kwargs": {"tasks": "t"}}"#, ""),
        (
            r#"{"task": "celery.chord", "kwargs": {"header": null, "body": null}}"#,
            "",
        ),
        (
            r#"{"task": "celery.chunks", "kwargs": {"task": {"task": "t"}, "it": [], "n": 0}}"#,
            "`n`",
        ),
        // What is said twice.
        (r#"{"task": "t", "task": "u"}"#, "`task` is given twice"),
        (
            r#"{"task": "t", "kwargs": {"x": 1, "\u0078": 2}}"#,
            "`x` is given twice",
        ),
        (
            r#"{"task": "t", "options": {"queue": "a", "queue": "b"}}"#,
            "`queue` is given twice",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, why) in cases {
        let reason = refusal(text);
        if !reason.contains(why) || reason.len() > 500 {
            let start: String = text.chars().take(80).collect();
            wrong.push(format!("{start}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hundreds_of_thousands_of_members_are_read_and_a_fault_in_the_last_is_found() {
    let group =
        |members: &str| format!(r#"{{"task":"celery.group","kwargs":{{"tasks":[{members}]}}}}"#);
    let many = r#"{"task":"t"},"#.repeat(300_000);
    let canvas = Canvas::from_json(&group(&format!(r#"{many}{{"task":"t"}}"#))).unwrap();
    assert_eq!(format!("{canvas:?}"), "group of 300001 (t, …)");
    match Canvas::from_json(&group(&format!(r#"{many}{{"task":7}}"#))) {
        Err(Error::Submit(SubmitError::Canvas { path, reason })) => {
            assert_eq!(path, "group[300000]");
            assert_eq!(reason, "`task` must be a text, but is 7");
        }
        other => panic!("{other:?}"),
    }
}
