//! Ids that callers choose for their submissions.

use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{Clock, Error, Id, SubmitError};

use crate::recovery::within;

const SECOND: Duration = Duration::from_secs(1);

#[task(name = "ids.double")]
async fn double(n: u64) -> u64 {
    2 * n
}

#[task(name = "ids.sum")]
async fn sum(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

async fn start(store: &MemoryStore, clock: &Clock) -> App {
    let app = App::with_store(store.clone()).clock(clock.clone());
    let app = app.retention(60 * SECOND).grace(Duration::ZERO);
    app.tasks(tasks![double, sum]).start().await.unwrap()
}

fn is_duplicate<T>(result: Result<T, Error>, id: Id) -> bool {
    matches!(result, Err(Error::Submit(SubmitError::DuplicateId { id: of })) if of == id)
}

fn large(id: Id) -> Signature<(), u64> {
    chord(group((0..3_000).map(|n| double.s(n))), sum.partial()).task_id(id)
}

#[tokio::test]
async fn one_submission_has_a_chosen_id_and_a_second_is_refused_as_long_as_the_store_has_it() {
    let (store, clock) = (MemoryStore::new(), clock());
    let app = start(&store, &clock).await;
    let (first, second) = (app.new_id(), app.new_id());
    assert!(first < second);
    // In any order.
    for (id, n) in [(second, 4), (first, 8)] {
        let result = app.apply_async(double.s(n).task_id(id)).await.unwrap();
        assert_eq!(result.id(), id);
        assert_eq!(within(result.get()).await.unwrap(), 2 * n);
    }
    assert!(app.new_id() > second);
    for id in [first, second] {
        assert!(is_duplicate(app.apply_async(large(id)).await, id));
        let result = app.async_result::<u64>(id).await.unwrap();
        let value = within(result.get()).await.unwrap();
        assert_eq!(value, if id == first { 16 } else { 8 });
    }
    within(app.shutdown()).await.unwrap();
    let app = start(&store, &clock).await;
    assert!(is_duplicate(app.apply_async(large(first)).await, first));
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn an_id_from_an_earlier_process_can_be_chosen_and_one_that_was_never_given_cannot() {
    let (store, clock) = (MemoryStore::new(), clock());
    let app = start(&store, &clock).await;
    let (given, large_one) = (app.new_id(), app.new_id());
    let later = app.apply_async(double.s(1)).await.unwrap();
    assert!(later.id() > large_one);
    within(later.get()).await.unwrap();
    within(app.shutdown()).await.unwrap();
    let app = start(&store, &clock).await;
    let result = app.apply_async(double.s(2).task_id(given)).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), 4);
    let total = app.apply_async(large(large_one)).await.unwrap();
    assert_eq!(within(total.get()).await.unwrap(), 2 * (2_999 * 3_000 / 2));
    let member = result.id().as_uuid().as_u128() + 1;
    let other = [
        Id::from(uuid::Uuid::from_u128(member)),
        Id::from(uuid::Uuid::nil()),
        Id::from(uuid::Uuid::max()),
        "ffffffff-ffff-7fff-bfff-fe0000000000".parse().unwrap(),
    ];
    for id in other {
        let refused = app.apply_async(double.s(3).task_id(id)).await.unwrap_err();
        let expected =
            format!("canvas refused: the task id {id} is none that `App::new_id` has given");
        assert_eq!(refused.to_string(), expected);
    }
    let inside = group([double.s(1).task_id(app.new_id())]);
    let refused = app.apply_async(inside).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "canvas refused at group[0]: a task id belongs on the canvas that is submitted, not inside it"
    );
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn of_submissions_at_once_one_gets_the_id_and_a_refused_one_leaves_it_free() {
    let (store, clock) = (MemoryStore::new(), clock());
    let app = start(&store, &clock).await;
    let id = app.new_id();
    let unknown = Canvas::task("ids.unknown", ()).task_id(id);
    app.apply_async(unknown).await.unwrap_err();
    let submit = || app.apply_async(large(id));
    let all = tokio::join!(submit(), submit(), submit());
    let all = [all.0, all.1, all.2];
    let submitted = all.iter().filter(|one| one.is_ok()).count();
    let refused = all.into_iter().filter_map(Result::err);
    let refused = refused.filter(
        |error| matches!(error, Error::Submit(SubmitError::DuplicateId { id: of }) if *of == id),
    );
    assert_eq!((submitted, refused.count()), (1, 2));
    let total = app.async_result::<u64>(id).await.unwrap();
    assert_eq!(within(total.get()).await.unwrap(), 2 * (2_999 * 3_000 / 2));
    // Once it is forgotten, the id is free.
    total.forget().await.unwrap();
    let again = within(async {
        loop {
            match app.apply_async(double.s(5).task_id(id)).await {
                Ok(result) => break result,
                error => assert!(is_duplicate(error, id)),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(within(again.get()).await.unwrap(), 10);
    within(app.shutdown()).await.unwrap();
}

#[test]
fn an_eager_app_takes_a_chosen_id() {
    let work = async {
        let app = App::eager()
            .tasks(tasks![double, sum])
            .start()
            .await
            .unwrap();
        let id = app.new_id();
        let result = app.apply_async(double.s(2).task_id(id)).await.unwrap();
        assert_eq!((result.id(), result.get().await.unwrap()), (id, 4));
        assert!(is_duplicate(app.apply_async(large(id)).await, id));
        app.shutdown().await.unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}
