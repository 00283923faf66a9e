//! What became of a canvas, as the recorded cases tell it.

use std::pin::Pin;

use chordal::{AsyncResult, Error};
use serde_json::{Value, json};

use crate::tasks;

/// Waits until nothing of the workflow runs any more, and tells its outcome.
pub(crate) async fn outcome(result: AsyncResult<Value>) -> chordal::Result<Value> {
    let workflow = result.id();
    result.at_rest().await?;
    let mut outcome = end(result).await?;
    let seen = tasks::take(workflow);
    outcome["executions"] = json!(seen.executions);
    outcome["errbacks"] = json!(seen.errback_log.len());
    let log = seen.errback_log.into_iter().map(without_ids);
    outcome["errback_log"] = sorted(log.collect());
    outcome["recorded"] = sorted(seen.recorded);
    Ok(outcome)
}

/// The outcome of a canvas that was refused, and so ran nothing.
pub(crate) fn refused(reason: &str) -> Value {
    json!({
        "state": "FAILURE",
        "error": {"type": "CanvasError", "message": without_ids(json!(reason))},
        "executions": {},
        "errbacks": 0,
        "errback_log": [],
        "recorded": [],
    })
}

/// The state with the result or the error; of a group, with the ends of its members.
fn end(result: AsyncResult<Value>) -> Pin<Box<dyn Future<Output = chordal::Result<Value>> + Send>> {
    Box::pin(async move {
        let Some(members) = result.members::<Value>().await? else {
            return task_end(&result).await;
        };
        let mut ends = Vec::new();
        for member in members {
            ends.push(end(member).await?);
        }
        // A member that was revoked counts as failed.
        let failed = ends.iter().find(|end| end["state"] != "SUCCESS");
        let Some(failed) = failed else {
            let values: Vec<_> = ends.iter_mut().map(|end| end["result"].take()).collect();
            return Ok(json!({"state": "SUCCESS", "result": values}));
        };
        let own = task_end(&result).await?;
        if own["error"] != failed["error"] {
            // A task that became the group: to Celery it is one result, and its failure a chord's.
            return Ok(own);
        }
        Ok(json!({"state": "FAILURE", "error": failed["error"], "children": ends}))
    })
}

async fn task_end(result: &AsyncResult<Value>) -> chordal::Result<Value> {
    let state = result.state().await?.to_string();
    match result.get().await {
        Ok(value) => Ok(json!({"state": state, "result": value})),
        Err(Error::Failed(failure)) => {
            let message = without_ids(json!(failure.message));
            let error = json!({"type": failure.error_type, "message": message});
            Ok(json!({"state": state, "error": error}))
        }
        Err(error) => Err(error),
    }
}

fn sorted(mut entries: Vec<Value>) -> Value {
    entries.sort_by_cached_key(Value::to_string);
    entries.into()
}

/// Writes `<id>` for every id in a text, or in the texts of a list.
fn without_ids(value: Value) -> Value {
    match value {
        Value::String(text) => json!(anonymous(&text)),
        Value::Array(values) => values.into_iter().map(without_ids).collect(),
        other => other,
    }
}

fn anonymous(text: &str) -> String {
    let mut anonymous = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let after = match rest.get(..36) {
            Some(id) if is_id(id) => {
                anonymous.push_str("<id>");
                36
            }
            _ => {
                anonymous.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[after..];
    }
    anonymous
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_texts_are_not_shown() {
        let id = "0199f3a2-5c6d-7e8f-9a0b-1c2d3e4f5a6b";
        let text = format!("Dependency {id} raised ValueError('é {id}-1')");
        assert_eq!(
            anonymous(&text),
            "Dependency <id> raised ValueError('é <id>-1')"
        );
        assert_eq!(anonymous(&id[1..]), &id[1..]);
    }
}
