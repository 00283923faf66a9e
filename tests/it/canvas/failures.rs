//! Failures: what they say, and what still runs.

use super::*;

#[tokio::test]
async fn a_failure_carries_the_tasks_name_and_its_own_message() {
    let app = app().await;
    let result = app
        .apply_async(fail.s("no such file".into()))
        .await
        .unwrap();
    let failed = failure_of(&result).await;
    assert_eq!(failed.kind, FailureKind::Error);
    assert_eq!(
        (failed.name.as_str(), failed.message.as_str()),
        ("fail", "no such file")
    );
    assert_eq!((failed.task_id, failed.attempt), (result.id(), 1));
    assert_eq!(
        failed.to_string(),
        format!(
            "task fail ({}) failed in attempt 1: no such file",
            result.id()
        )
    );
    assert!(result.failed().await.unwrap());
    assert_eq!(result.state().await.unwrap(), State::Failure);
}

#[tokio::test]
async fn the_step_that_fails_ends_the_chain_and_the_later_ones_never_run() {
    for k in 0..4 {
        let key = format!("failures: chain {k}");
        let app = app().await;
        let step = |i: usize| match i {
            _ if i == k => even.si(1) | mark.partial(key.clone()),
            _ => mark.si(i as i64, key.clone()) | add.partial(0),
        };
        let result = app
            .apply_async(step(0) | step(1) | step(2) | step(3))
            .await
            .unwrap();
        assert_eq!(failure_of(&result).await.message, "1 is odd");
        app.shutdown().await.unwrap();
        let ran: Vec<_> = (0..k).map(|i| i.to_string()).collect();
        assert_eq!(notes(&key), ran);
    }
}

#[tokio::test]
async fn the_steps_behind_a_failure_have_that_failure() {
    let app = app().await;
    let canvas = add.s(0, 1) | even.partial() | add.partial(1) | group([add.partial(1)]);
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(failure_of(&result).await.message, "1 is odd");
    let steps = result.children::<Value>().await.unwrap();
    assert_eq!(steps[0].get().await.unwrap(), 1);
    for step in &steps[1..] {
        assert_eq!(failure_of(step).await.message, "1 is odd");
        assert_eq!(step.state().await.unwrap(), State::Failure);
    }
}

#[tokio::test]
async fn a_group_has_the_failure_of_its_lowest_failed_member_and_the_others_run() {
    let (app, key) = (app().await, "failures: group");
    let gate = "failures: lowest";
    let members = group([
        mark.s(0, key.into()),
        held.s(1, gate.into()) | even.partial(),
        mark.s(2, key.into()),
        even.s(3),
        mark.s(4, key.into()),
    ]);
    let result = app.apply_async(members).await.unwrap();
    let children = result.children::<i64>().await.unwrap();
    // The higher one fails first.
    assert_eq!(failure_of(&children[3]).await.message, "3 is odd");
    open(gate);
    assert_eq!(failure_of(&result).await.message, "1 is odd");
    assert_eq!(result.completed_count().await.unwrap(), 3);
    let mut ran = notes(key);
    ran.sort_unstable();
    assert_eq!(ran, ["0", "2", "4"]);
}

#[tokio::test]
async fn a_group_ends_when_its_last_member_has_ended_though_one_failed_before() {
    let (app, gate) = (app().await, "failures: last");
    let result = app
        .apply_async(group([even.s(1), held.s(2, gate.into())]))
        .await
        .unwrap();
    let children = result.children::<i64>().await.unwrap();
    failure_of(&children[0]).await;
    noted(gate, 1).await;
    assert!(!result.ready().await.unwrap());
    open(gate);
    assert_eq!(failure_of(&result).await.message, "1 is odd");
    assert_eq!(children[1].get().await.unwrap(), 2);
}

#[tokio::test]
async fn a_failing_member_fails_the_chord_names_it_and_its_body_never_runs() {
    let (app, key) = (app().await, "failures: chord");
    let header = group([
        mark.s(1, key.into()),
        even.s(3),
        mark.s(2, key.into()),
        even.s(5),
    ]);
    let result = app
        .apply_async(header | mark.si(-1, key.into()))
        .await
        .unwrap();
    let failed = failure_of(&result).await;
    let member = node(result.id(), 2);
    assert_eq!(failed.kind, FailureKind::Chord);
    assert_eq!(
        (failed.name.as_str(), failed.task_id),
        ("chord", result.id())
    );
    assert_eq!(
        failed.message,
        format!("Dependency {member} raised TaskError('3 is odd')")
    );
    assert_eq!(
        failed.to_string(),
        format!(
            "chord {}: Dependency {member} raised TaskError('3 is odd')",
            result.id()
        )
    );
    let cause = failed.cause.unwrap();
    assert_eq!((cause.task_id, cause.kind), (member, FailureKind::Error));
    app.shutdown().await.unwrap();
    let mut ran = notes(key);
    ran.sort_unstable();
    assert_eq!(ran, ["1", "2"]);
}

#[tokio::test]
async fn a_failing_body_fails_the_chord_with_its_own_failure() {
    let failed = failure(group([add.s(0, 1)]) | xsum.partial() | even.partial()).await;
    assert_eq!(
        (failed.kind, failed.message.as_str()),
        (FailureKind::Error, "1 is odd")
    );
    let failed = failure(chord(group([add.s(0, 1)]), xsum.partial() | even.partial())).await;
    assert_eq!(
        (failed.kind, failed.message.as_str()),
        (FailureKind::Error, "1 is odd")
    );
}

#[tokio::test]
async fn a_failure_deep_within_chords_keeps_its_causes() {
    let chorded = |inner: Signature<(), i64>| chord(group([inner]), xsum.partial());
    let failed = failure(chorded(chorded(even.s(1)))).await;
    let inner = failed.cause.unwrap();
    assert_eq!(inner.kind, FailureKind::Chord);
    assert_eq!(inner.cause.unwrap().message, "1 is odd");
}

#[tokio::test]
async fn a_failed_chord_fails_what_follows_it() {
    let key = "failures: behind a chord";
    let chorded = chord(group([even.s(1)]), xsum.partial());
    let failed = failure(chorded | mark.partial(key.into()) | add.partial(1)).await;
    assert_eq!(failed.kind, FailureKind::Chord);
    assert_eq!(notes(key), [""; 0]);
}

#[task]
async fn panics(how: String) -> i64 {
    match how.as_str() {
        "text" => panic!("a text"),
        "formatted" => panic!("{} and {}", 1, 2),
        "number" => std::panic::panic_any(7),
        "index" => [0, 1][how.len()],
        _ => unreachable!(),
    }
}

#[task(blocking)]
fn panics_blocking(how: String) -> i64 {
    pollster::block_on(panics.call(how))
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_text() {
    let app = builder()
        .tasks(tasks![panics, panics_blocking])
        .start()
        .await
        .unwrap();
    let cases = [
        ("text", "a text"),
        ("formatted", "1 and 2"),
        ("number", "a panic without a text"),
        (
            "index",
            "index out of bounds: the len is 2 but the index is 5",
        ),
    ];
    for (how, text) in cases {
        for canvas in [panics.s(how.into()), panics_blocking.s(how.into())] {
            let result = app.apply_async(canvas).await.unwrap();
            let failed = failure_of(&result).await;
            assert_eq!(
                (failed.kind, failed.message.as_str()),
                (FailureKind::Panic, text)
            );
            assert!(
                failed.to_string().contains("panicked in attempt 1"),
                "{failed}"
            );
        }
    }
    // The app is none the worse for it.
    assert_eq!(
        app.apply_async(add.s(1, 1))
            .await
            .unwrap()
            .get()
            .await
            .unwrap(),
        2
    );
}

#[tokio::test]
async fn any_error_becomes_a_failure_with_its_message_and_its_sources() {
    #[task]
    async fn parse(text: String) -> Result<i64, TaskError> {
        Ok(text.parse()?)
    }
    #[task]
    async fn read(path: String) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
    let app = builder().tasks(tasks![parse, read]).start().await.unwrap();
    let result = app.apply_async(parse.s("x".into())).await.unwrap();
    assert_eq!(
        failure_of(&result).await.message,
        "invalid digit found in string"
    );
    let result = app.apply_async(read.s("/nowhere".into())).await.unwrap();
    assert!(failure_of(&result).await.message.contains("No such file"));
}
