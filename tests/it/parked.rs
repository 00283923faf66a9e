//! Parked tasks: what a build cannot run waits for one that can, or until it is discarded.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Error, FailureKind, Id, IdError, State, TaskEntry};
use serde_json::json;

use crate::recovery::within;

const HOUR: Duration = Duration::from_secs(3_600);

/// The build that submits.
mod old {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) enum Color {
        Red,
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Order {
        pub(crate) number: u64,
    }

    /// Says which attempt it was.
    #[task(name = "parked.work")]
    pub(crate) async fn work(ctx: &TaskContext, n: i64) -> u32 {
        assert_eq!(n, 7);
        ctx.attempt()
    }

    #[task(name = "parked.paint")]
    pub(crate) async fn paint(color: Color, order: Order) -> u64 {
        let Color::Red = color;
        order.number
    }

    #[task(name = "parked.first")]
    pub(crate) async fn first(n: i64) -> i64 {
        n
    }

    #[task(name = "parked.next")]
    pub(crate) async fn next(n: i64) -> i64 {
        n + 1
    }

    #[task(name = "parked.sum")]
    pub(crate) async fn sum(all: Vec<i64>) -> i64 {
        all.iter().sum()
    }

    #[task(name = "parked.add")]
    pub(crate) async fn add(all: i64, more: i64) -> i64 {
        all + more
    }

    #[task(name = "parked.fails")]
    pub(crate) async fn fails() -> Result<(), TaskError> {
        Err(TaskError::new("on purpose"))
    }

    #[task(name = "parked.mourn")]
    pub(crate) async fn mourn(failure: TaskFailure, who: i64) -> String {
        format!("{who}: {}", failure.message)
    }

    pub(crate) fn tasks() -> Vec<TaskEntry> {
        tasks![work, paint, first, next, sum, add, fails, mourn].into()
    }
}

/// One that has changed the signature of a task; all others are as they were.
fn changed(task: TaskEntry, name: &str) -> Vec<TaskEntry> {
    let others = old::tasks();
    let others = others.into_iter().filter(|entry| !shows(*entry, name));
    others.chain([task]).collect()
}

fn without(name: &str) -> Vec<TaskEntry> {
    let others = old::tasks();
    others
        .into_iter()
        .filter(|entry| !shows(*entry, name))
        .collect()
}

fn shows(entry: TaskEntry, name: &str) -> bool {
    format!("{entry:?}").contains(&format!("\"{name}\""))
}

macro_rules! build {
    ($module:ident, $function:item) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $function
        }
    };
}

build!(
    added,
    #[task(name = "parked.work")]
    pub(crate) async fn work(n: i64, more: i64) -> u32 {
        (n + more) as u32
    }
);
build!(
    removed,
    #[task(name = "parked.work")]
    pub(crate) async fn work() -> u32 {
        0
    }
);
build!(
    retyped,
    #[task(name = "parked.work")]
    pub(crate) async fn work(n: String) -> u32 {
        n.len() as u32
    }
);
build!(
    text,
    #[task(name = "parked.next")]
    pub(crate) async fn next(n: String) -> i64 {
        n.len() as i64
    }
);
build!(
    texts,
    #[task(name = "parked.sum")]
    pub(crate) async fn sum(all: Vec<String>) -> i64 {
        all.len() as i64
    }
);
build!(
    texted,
    #[task(name = "parked.add")]
    pub(crate) async fn add(all: i64, more: String) -> i64 {
        all + more.len() as i64
    }
);
build!(
    mourned,
    #[task(name = "parked.mourn")]
    pub(crate) async fn mourn(failure: TaskFailure, who: String) -> String {
        who + &failure.message
    }
);

mod renamed {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) enum Color {
        Crimson,
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Order {
        number: u64,
        customer: u64,
    }

    #[task(name = "parked.paint")]
    pub(crate) async fn paint(_color: Color, order: old::Order) -> u64 {
        order.number
    }

    pub(crate) mod field {
        use super::*;

        #[task(name = "parked.paint")]
        pub(crate) async fn paint(_color: old::Color, order: Order) -> u64 {
            order.number + order.customer
        }
    }
}

struct World {
    store: MemoryStore,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            clock: Clock::manual(SystemTime::UNIX_EPOCH + 1_000 * HOUR),
        }
    }

    fn builder(&self) -> AppBuilder {
        App::with_store(self.store.clone())
            .clock(self.clock.clone())
            .worker_threads(1)
    }

    async fn open(&self, tasks: impl IntoIterator<Item = TaskEntry>) -> App {
        self.builder().tasks(tasks).start().await.unwrap()
    }

    /// Submits it to the old build, which ends before anything of it runs.
    async fn leave<O>(&self, canvas: Signature<(), O>) -> Id {
        let app = self.open(old::tasks()).await;
        let id = app.apply_async(canvas.countdown(HOUR)).await.unwrap().id();
        app.shutdown().await.unwrap();
        id
    }

    fn later(&self) {
        self.clock.advance(2 * HOUR);
    }
}

/// Waits until the workflow's only task has been called this often and parked: each time that it was
/// started and put back is on record.
async fn met(world: &World, workflow: Id, often: usize) {
    let own = &workflow.as_uuid().into_bytes()[..11];
    within(async {
        loop {
            let keys = world.store.scan(b"s", b"t").map(|pair| pair.unwrap().0);
            if keys.filter(|key| &key[1..12] == own).count() >= 2 * often {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The list of what is parked, as names and reasons.
async fn listed(app: &App) -> BTreeMap<String, String> {
    let parked = app.parked().await.unwrap().into_iter();
    parked.map(|task| (task.name, task.reason)).collect()
}

#[tokio::test]
async fn a_task_whose_signature_has_changed_is_parked_with_the_reason_and_runs_when_a_build_can() {
    let builds: [(TaskEntry, &str); 3] = [
        (tasks![added::work][0], "2 arguments (n, more), but gets 1"),
        (tasks![removed::work][0], "0 arguments (), but gets 1"),
        (tasks![retyped::work][0], "`n` takes String"),
    ];
    for (entry, why) in builds {
        let world = World::new();
        let id = world.leave(old::work.s(7)).await;
        // In a build that cannot run it, twice, because to be parked must leave no trace.
        for often in 0..3 {
            let app = world.open(changed(entry, "parked.work")).await;
            // Right after the start, and while it waits for its time in the store.
            let parked = listed(&app).await;
            let reason = parked.get("parked.work").unwrap_or_else(|| panic!("{why}"));
            assert!(reason.contains(why), "{reason}");
            met(&world, id, often).await;
            let result = app.async_result::<u32>(id).await.unwrap();
            assert_eq!(result.state().await.unwrap(), State::Pending);
            drop(result);
            app.shutdown().await.unwrap();
            world.later();
        }
        let app = world.open(old::tasks()).await;
        let result = app.async_result::<u32>(id).await.unwrap();
        assert_eq!(
            within(result.get()).await.unwrap(),
            1,
            "no attempt is used up"
        );
        assert!(app.parked().await.unwrap().is_empty());
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_field_and_a_renamed_variant_park_a_task() {
    let builds = [
        (tasks![renamed::paint][0], "Red"),
        (tasks![renamed::field::paint][0], "customer"),
    ];
    for (entry, why) in builds {
        let world = World::new();
        let order = old::Order { number: 9 };
        let id = world.leave(old::paint.s(old::Color::Red, order)).await;
        world.later();
        let app = world.open(changed(entry, "parked.paint")).await;
        let parked = app.parked().await.unwrap();
        let [task] = &parked[..] else {
            panic!("{parked:?}");
        };
        assert_eq!((task.id, &*task.name), (id, "parked.paint"));
        assert!(task.reason.contains(why), "{}", task.reason);
        // For a dashboard.
        let shown = serde_json::to_value(task).unwrap();
        assert_eq!(shown["name"], "parked.paint");
        app.shutdown().await.unwrap();
        let app = world.open(old::tasks()).await;
        let result = app.async_result::<u64>(id).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), 9);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_parked_task_that_is_discarded_fails_and_its_errback_runs() {
    for (build, kind) in [
        (
            changed(tasks![retyped::work][0], "parked.work"),
            FailureKind::Type,
        ),
        (without("parked.work"), FailureKind::NotRegistered),
    ] {
        for is_due in [true, false] {
            let world = World::new();
            let canvas = old::work.s(7).on_error(old::mourn.partial(3));
            let id = world.leave(canvas).await;
            if is_due {
                world.later();
            }
            let app = world.open(build.clone()).await;
            let result = app.async_result::<u32>(id).await.unwrap();
            within(app.discard(id)).await.unwrap();
            match within(result.get()).await {
                Err(Error::Failed(failure)) => {
                    assert_eq!(failure.kind, kind, "{failure}");
                    assert!(failure.message.starts_with("discarded; it was parked: "));
                }
                other => panic!("{other:?}"),
            }
            let [errback] = &result.children::<String>().await.unwrap()[..] else {
                panic!("it has one errback");
            };
            let words = within(errback.get()).await.unwrap();
            assert!(words.starts_with("3: discarded"), "{words}");
            assert!(app.parked().await.unwrap().is_empty());
            assert!(matches!(
                app.discard(id).await,
                Err(Error::Id(IdError::NotQuarantined { .. }))
            ));
            assert!(matches!(
                app.requeue(id).await,
                Err(Error::Id(IdError::NotQuarantined { .. }))
            ));
            app.shutdown().await.unwrap();
        }
    }
}

/// In typed canvases the compiler has seen that a value from upstream fits: that it does not any
/// more is the work of another build.
#[tokio::test]
async fn steps_bodies_callbacks_errbacks_and_folds_that_have_changed_are_parked() {
    let header = || group((1..=3).map(|n| old::first.s(n)));
    let cases: [(Signature<(), i64>, TaskEntry, &str); 6] = [
        (
            old::first.s(6) | old::next.partial(),
            tasks![text::next][0],
            "parked.next",
        ),
        (
            header() | old::sum.partial(),
            tasks![texts::sum][0],
            "parked.sum",
        ),
        (
            old::first.s(6).link(old::next.partial()),
            tasks![text::next][0],
            "parked.next",
        ),
        (
            header().fold(0, old::add),
            tasks![texted::add][0],
            "parked.add",
        ),
        (
            (header() | old::next.each()) | old::sum.partial(),
            tasks![text::next][0],
            "parked.next",
        ),
        (
            (old::fails.s() | old::first.si(1)).on_error(old::mourn.partial(1)),
            tasks![mourned::mourn][0],
            "parked.mourn",
        ),
    ];
    for (canvas, entry, name) in cases {
        let world = World::new();
        let id = world.leave(canvas).await;
        world.later();
        let app = world.open(changed(entry, name)).await;
        // They are met when it is their turn.
        within(async {
            while !listed(&app).await.contains_key(name) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let parked = app.parked().await.unwrap();
        app.shutdown().await.unwrap();
        let app = world.open(old::tasks()).await;
        let result = app.async_result::<i64>(id).await.unwrap();
        within(result.at_rest()).await.unwrap();
        for task in parked {
            let task = app
                .async_result::<serde_json::Value>(task.id)
                .await
                .unwrap();
            within(task.get()).await.unwrap();
        }
        app.shutdown().await.unwrap();
    }
}

/// Celery raises a `TypeError` there.
#[tokio::test]
async fn a_value_that_does_not_fit_fails_the_task_where_the_canvas_has_no_types() {
    let json = json!({
        "task": "celery.chain", "args": [], "options": {}, "subtask_type": "chain",
        "immutable": false,
        "kwargs": {"tasks": [
            {"task": "parked.mourn", "args": [{"kind": "Error", "task_id": Id::from(uuid::Uuid::nil()),
                "name": "x", "error_type": "x", "message": "x", "attempt": 1}, 1],
             "kwargs": {}, "options": {"countdown": 3600}, "subtask_type": null, "immutable": false},
            {"task": "parked.next", "args": [], "kwargs": {}, "options": {},
             "subtask_type": null, "immutable": false},
        ]},
    });
    for restarts in [false, true] {
        let world = World::new();
        let app = world.open(old::tasks()).await;
        let canvas = Canvas::from_json(&json.to_string()).unwrap();
        let id = app.apply_async(canvas).await.unwrap().id();
        let app = match restarts {
            true => {
                app.shutdown().await.unwrap();
                world.later();
                world.open(old::tasks()).await
            }
            false => {
                world.later();
                app
            }
        };
        let result = app.async_result::<i64>(id).await.unwrap();
        match within(result.get()).await {
            Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Type),
            other => panic!("{other:?}"),
        }
        assert!(app.parked().await.unwrap().is_empty());
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_parked_task_whose_arguments_do_not_decode_is_revoked() {
    let world = World::new();
    let id = world.leave(old::work.s(7)).await;
    world.later();
    let app = world
        .open(changed(tasks![retyped::work][0], "parked.work"))
        .await;
    let result = app.async_result::<u32>(id).await.unwrap();
    within(result.revoke()).await.unwrap();
    // It may have been met just then: the attempt that finds that its arguments do not decode ends first.
    drop(within(result.get()).await);
    assert_eq!(within(result.state()).await.unwrap(), State::Revoked);
    assert!(app.parked().await.unwrap().is_empty());
    app.shutdown().await.unwrap();
}

/// Its members stand in many records, beside the workflow's head.
#[tokio::test]
async fn all_members_of_a_large_group_are_listed_and_any_of_them_can_be_discarded() {
    const MEMBERS: usize = 250;
    let store = MemoryStore::new();
    let open = |tasks: Vec<TaskEntry>| App::with_store(store.clone()).tasks(tasks).paused();
    let app = open(old::tasks()).start().await.unwrap();
    let both = group([(); 2].map(|()| group((0..MEMBERS).map(|_| old::work.s(7)))));
    drop(app.apply_async(both).await.unwrap());
    app.shutdown().await.unwrap();

    let retyped = changed(tasks![retyped::work][0], "parked.work");
    let app = open(retyped).start().await.unwrap();
    let parked = app.parked().await.unwrap();
    assert_eq!(parked.len(), 2 * MEMBERS);
    let last = parked[2 * MEMBERS - 1].id;
    within(app.discard(last)).await.unwrap();
    app.resume().await.unwrap();
    let last = app.async_result::<u32>(last).await.unwrap();
    match within(last.get()).await {
        Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Type),
        other => panic!("{other:?}"),
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_discard_of_what_has_not_come_in_survives_a_restart_with_a_build_that_could_run_it() {
    let store = MemoryStore::new();
    let open = |tasks: Vec<TaskEntry>| App::with_store(store.clone()).tasks(tasks).paused();
    let app = open(old::tasks()).start().await.unwrap();
    let both = app.apply_async(group([(); 2].map(|()| old::work.s(7))));
    let both = both.await.unwrap().id();
    app.shutdown().await.unwrap();

    let retyped = changed(tasks![retyped::work][0], "parked.work");
    let app = open(retyped).start().await.unwrap();
    let discarded = app.parked().await.unwrap()[1].id;
    within(app.discard(discarded)).await.unwrap();
    app.shutdown().await.unwrap();

    let app = open(old::tasks()).start().await.unwrap();
    app.resume().await.unwrap();
    let one = app.async_result::<u32>(discarded).await.unwrap();
    match within(one.get()).await {
        Err(Error::Failed(failure)) => {
            assert_eq!(failure.kind, FailureKind::Type);
            assert!(failure.message.starts_with("discarded; it was parked: "));
        }
        other => panic!("{other:?}"),
    }
    let both = app.async_result::<Vec<u32>>(both).await.unwrap();
    let other = &both.children::<u32>().await.unwrap()[0];
    assert_eq!(within(other.get()).await.unwrap(), 1);
    app.shutdown().await.unwrap();
}
