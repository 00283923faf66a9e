//! Settled groups: the list of every outcome.

use super::*;

#[tokio::test]
async fn a_settled_group_gives_failures_as_elements() {
    let app = app().await;
    let result = app
        .apply_async(group((0..3).map(|n| even.s(n))).settled())
        .await
        .unwrap();
    let all = result.get().await.unwrap();
    assert_eq!((&all[0], &all[2]), (&Ok(0), &Ok(2)));
    let failed = all[1].as_ref().unwrap_err();
    assert_eq!(
        (failed.name.as_str(), failed.message.as_str()),
        ("even", "1 is odd")
    );
    assert_eq!(failed.task_id, node(result.id(), 2));
    assert!(result.successful().await.unwrap());
    assert_eq!(result.completed_count().await.unwrap(), 2);
}

#[tokio::test]
async fn the_body_of_a_settled_header_always_runs() {
    let canvas = |numbers: &[i64]| {
        let members: Vec<_> = numbers.iter().map(|n| even.s(*n)).collect();
        group(members).settled() | outcomes.partial()
    };
    assert_eq!(value(canvas(&[0, 1])).await, ["0", "even: 1 is odd"]);
    assert_eq!(
        value(canvas(&[1, 3])).await,
        ["even: 1 is odd", "even: 3 is odd"]
    );
    assert_eq!(value(canvas(&[0, 2])).await, ["0", "2"]);
    assert_eq!(value(canvas(&[])).await, [""; 0]);
}

#[tokio::test]
async fn a_settled_header_takes_canvases_of_every_form() {
    let chained = add.s(0, 1) | even.partial() | add.partial(1);
    let chorded = chord(group([even.s(3)]), xsum.partial());
    let app = app().await;
    let members = group([chained, chorded, add.s(1, 1)]).settled();
    let result = app.apply_async(members | outcomes.partial()).await.unwrap();
    let (chord, member) = (node(result.id(), 5), node(result.id(), 6));
    let lines = result.get().await.unwrap();
    assert_eq!(lines[0], "even: 1 is odd", "{chord}");
    assert_eq!(
        lines[1],
        format!("chord: Dependency {member} raised TaskError('3 is odd')")
    );
    assert_eq!(lines[2], "2");
}

#[tokio::test]
async fn settled_groups_nest() {
    let inner = |numbers: [i64; 2]| group(numbers.map(|n| even.s(n))).settled();
    let result = value(group([inner([0, 1]), inner([2, 4])]).settled()).await;
    let inner: Vec<_> = result.into_iter().map(Result::unwrap).collect();
    assert_eq!(inner[0][0], Ok(0));
    assert_eq!(inner[0][1].as_ref().unwrap_err().message, "1 is odd");
    assert_eq!(inner[1], [Ok(2), Ok(4)]);
}

#[tokio::test]
async fn an_unsettled_group_within_a_settled_one_is_one_failure() {
    let inner = |numbers: [i64; 2]| group(numbers.map(|n| even.s(n)));
    let result = value(group([inner([0, 1]), inner([2, 4])]).settled()).await;
    assert_eq!(result[0].as_ref().unwrap_err().message, "1 is odd");
    assert_eq!(result[1], Ok(vec![2, 4]));
}

#[tokio::test]
async fn a_chain_that_ends_in_a_group_settles_that_group() {
    let canvas = add.s(0, 1) | group([even.partial(), add.partial(1)]);
    let result = value(canvas.settled()).await;
    assert_eq!(result[0].as_ref().unwrap_err().message, "1 is odd");
    assert_eq!(result[1], Ok(2));
}

#[tokio::test]
async fn the_settled_group_of_a_chain_does_not_settle_the_steps_before_it() {
    let canvas = even.s(1) | group([even.partial(), add.partial(1)]).settled();
    assert_eq!(failure(canvas).await.message, "1 is odd");
}

#[tokio::test]
async fn large_values_and_failures_stand_side_by_side() {
    #[task]
    async fn letters_or_not(count: usize) -> Result<String, TaskError> {
        match count {
            0 => Err(TaskError::new("none")),
            count => Ok("x".repeat(count)),
        }
    }
    let app = builder()
        .tasks(tasks![letters_or_not])
        .start()
        .await
        .unwrap();
    let members = group([0, 10, 100_000].map(|n| letters_or_not.s(n))).settled();
    let all = app.apply_async(members).await.unwrap().get().await.unwrap();
    assert_eq!(all[0].as_ref().unwrap_err().message, "none");
    assert_eq!(all[2].as_ref().unwrap().len(), 100_000);
}

#[tokio::test]
async fn what_is_no_group_cannot_be_settled() {
    let app = app().await;
    let refused = app.apply_async(range.s(3).settled()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "canvas refused: settled() needs a group; `range` is a task"
    );
}
