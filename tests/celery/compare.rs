//! Whether an outcome is the one that was recorded or predicted.

use serde_json::{Value, json};

/// `Err` says where they differ. Not compared are: a message that is null in `expected`, the task
/// named in an `errback_log`, and `parents`.
pub(crate) fn agree(expected: &Value, actual: &Value) -> Result<(), String> {
    end_agrees("", expected, actual)?;
    for key in ["executions", "errbacks"] {
        same(key, &expected[key], &actual[key])?;
    }
    same(
        "recorded",
        &sorted(&expected["recorded"]),
        &sorted(&actual["recorded"]),
    )?;
    log_agrees(&expected["errback_log"], &actual["errback_log"])
}

fn end_agrees(place: &str, expected: &Value, actual: &Value) -> Result<(), String> {
    for key in ["state", "result"] {
        same(&format!("{place}{key}"), &expected[key], &actual[key])?;
    }
    // A `null` result is a result.
    let has_result = |end: &Value| json!(end.get("result").is_some());
    same(
        &format!("{place}has a result"),
        &has_result(expected),
        &has_result(actual),
    )?;
    let (error, other) = (&expected["error"], &actual["error"]);
    same(
        &format!("{place}error.type"),
        &error["type"],
        &other["type"],
    )?;
    if !error["message"].is_null() {
        same(
            &format!("{place}error.message"),
            &error["message"],
            &other["message"],
        )?;
    }
    let (members, others) = (list(&expected["children"]), list(&actual["children"]));
    same(
        &format!("{place}children"),
        &json!(members.len()),
        &json!(others.len()),
    )?;
    for (index, (member, other)) in members.iter().zip(others).enumerate() {
        end_agrees(&format!("{place}children[{index}]."), member, other)?;
    }
    Ok(())
}

fn log_agrees(expected: &Value, actual: &Value) -> Result<(), String> {
    let without_task = |entry: &Value| json!([entry[0], entry[1], entry[3], entry[4]]);
    let mut actual: Vec<_> = list(actual).iter().map(without_task).collect();
    for entry in list(expected).iter().map(without_task) {
        let any_text = entry[1] == "inline" && entry[3].is_null();
        let compared = if any_text { 3 } else { 4 };
        let found = actual
            .iter()
            .position(|other| (0..compared).all(|at| entry[at] == other[at]));
        let Some(found) = found else {
            return Err(format!("errback_log: no {entry} in {}", json!(actual)));
        };
        actual.remove(found);
    }
    same("errback_log has beyond that", &json!([]), &json!(actual))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn sorted(value: &Value) -> Value {
    let mut entries = list(value).to_vec();
    entries.sort_by_cached_key(Value::to_string);
    entries.into()
}

fn same(key: &str, expected: &Value, actual: &Value) -> Result<(), String> {
    if expected == actual {
        return Ok(());
    }
    Err(format!("{key}: expected {expected}, got {actual}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_differ_in_any_key_do_not_agree() {
        let failed = json!({"state": "FAILURE", "error": {"type": "ValueError", "message": "x"}});
        let mut outcome = failed.clone();
        outcome["children"] = json!([{"state": "SUCCESS", "result": null}, failed]);
        outcome["executions"] = json!({"fail": 1});
        outcome["errbacks"] = json!(1);
        outcome["errback_log"] = json!([["E", "inline", "fail", "ValueError", "x"]]);
        outcome["recorded"] = json!([["b", 2], ["a", 1]]);
        assert_eq!(agree(&outcome, &outcome), Ok(()));
        for (place, other) in [
            ("/state", json!("REVOKED")),
            ("/error/type", json!("KeyError")),
            ("/error/message", json!("y")),
            ("/children", json!([failed])),
            ("/children/0", json!({"state": "SUCCESS"})),
            ("/children/1/error/message", json!("y")),
            ("/executions", json!({"fail": 2})),
            ("/errbacks", json!(2)),
            ("/errback_log/0/0", json!("F")),
            ("/errback_log/0/4", json!("y")),
            ("/errback_log", json!([])),
            ("/recorded/0", json!(["b", 3])),
        ] {
            let mut changed = outcome.clone();
            *changed.pointer_mut(place).unwrap() = other;
            assert!(agree(&outcome, &changed).is_err(), "{place}");
            assert!(agree(&changed, &outcome).is_err(), "{place}");
        }
        for (place, other) in [
            ("/errback_log/0/2", json!("celery.chain")),
            ("/recorded", json!([["a", 1], ["b", 2]])),
        ] {
            let mut changed = outcome.clone();
            *changed.pointer_mut(place).unwrap() = other;
            assert_eq!(agree(&outcome, &changed), Ok(()), "{place}");
        }
        let mut silent = outcome.clone();
        silent["error"]["message"] = Value::Null;
        silent["errback_log"][0][4] = Value::Null;
        assert_eq!(agree(&silent, &outcome), Ok(()));
    }
}
