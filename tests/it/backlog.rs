//! The backlog: no more workflows are in memory than allowed, and the others wait in the store, in
//! their order, for their places and their times.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Error, Id, IdError, State};
use tokio::sync::watch;

use crate::disk::Disk;
use crate::recovery::within;

/// What ran: the test's own number and the task's.
static RAN: LazyLock<watch::Sender<Vec<(u64, u64)>>> = LazyLock::new(watch::Sender::default);
/// Tests whose gate is open.
static OPEN: LazyLock<watch::Sender<HashSet<u64>>> = LazyLock::new(watch::Sender::default);
static TESTS: AtomicU64 = AtomicU64::new(1);
const SECOND: Duration = Duration::from_secs(1);

#[task(name = "backlog.work")]
async fn work(test: u64, n: u64) -> u64 {
    RAN.send_modify(|ran| ran.push((test, n)));
    n
}

/// Does not end before the gate of its test is open.
#[task(name = "backlog.held")]
async fn held(test: u64, n: u64) -> u64 {
    RAN.send_modify(|ran| ran.push((test, n)));
    let mut open = OPEN.subscribe();
    let _ = open.wait_for(|open| open.contains(&test)).await;
    n
}

/// Submits one more below it, and waits for that.
#[task(name = "backlog.nested")]
async fn nested(ctx: &TaskContext, test: u64, depth: u64) -> Result<u64, TaskError> {
    RAN.send_modify(|ran| ran.push((test, depth)));
    if depth == 0 {
        return Ok(0);
    }
    let below = ctx.apply_async(nested.s(test, depth - 1)).await?;
    Ok(below.get().await? + 1)
}

/// One test's own numbers, gate and store.
struct Stage {
    test: u64,
    store: MemoryStore,
    clock: Clock,
}

impl Stage {
    fn new() -> Self {
        Self {
            test: TESTS.fetch_add(1, Ordering::Relaxed),
            store: MemoryStore::new(),
            clock: Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND),
        }
    }

    fn builder(&self, live: u64) -> AppBuilder {
        App::with_store(self.store.clone())
            .clock(self.clock.clone())
            .live_workflows(live)
            .tasks(tasks![work, held, nested])
    }

    async fn app(&self, live: u64) -> App {
        self.builder(live).start().await.unwrap()
    }

    fn open(&self) {
        OPEN.send_modify(|open| {
            open.insert(self.test);
        });
    }

    fn ran(&self) -> Vec<u64> {
        self.of(&RAN.borrow())
    }

    fn of(&self, ran: &[(u64, u64)]) -> Vec<u64> {
        let own = ran.iter().filter(|(test, _)| *test == self.test);
        own.map(|(_, n)| *n).collect()
    }

    /// Waits until this many have run.
    async fn run(&self, count: usize) -> Vec<u64> {
        let mut ran = RAN.subscribe();
        let enough = ran.wait_for(|ran| self.of(ran).len() >= count);
        drop(within(enough).await.unwrap());
        self.ran()
    }

    fn count(&self, tag: u8) -> usize {
        self.store.scan(&[tag], &[tag + 1]).count()
    }

    /// Waits until the store holds this many records under the tag.
    async fn holds(&self, tag: u8, count: usize) {
        within(async {
            while self.count(tag) != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn submit(app: &App, canvas: Signature<(), u64>) -> AsyncResult<u64> {
    app.apply_async(canvas).await.unwrap()
}

#[tokio::test]
async fn no_more_are_live_than_allowed_and_all_run_in_order() {
    let stage = Stage::new();
    let app = stage.builder(3).concurrency(1).start().await.unwrap();
    let mut all = vec![submit(&app, held.s(stage.test, 0)).await];
    for n in 1..40 {
        all.push(submit(&app, work.s(stage.test, n)).await);
        assert!(app.live_workflows() <= 3);
    }
    assert_eq!((stage.count(b'w'), stage.count(b'q')), (3, 37));
    assert_eq!(all[39].state().await.unwrap(), State::Pending);
    assert!(!all[39].ready().await.unwrap());
    let found = app.async_result::<u64>(all[39].id()).await.unwrap();
    stage.open();
    assert_eq!(within(found.get()).await.unwrap(), 39);
    assert_eq!(stage.ran(), (0..40).collect::<Vec<_>>());
    stage.holds(b'w', 0).await;
    assert_eq!((stage.count(b'b'), stage.count(b'q')), (0, 0));
    assert_eq!(app.live_workflows(), 0);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_keeps_no_other_from_starting() {
    let stage = Stage::new();
    let app = stage.app(2).await;
    for n in 0..5 {
        let _ = submit(&app, held.s(stage.test, n).queue("slow")).await;
    }
    let other = submit(&app, work.s(stage.test, 9).queue("fast")).await;
    assert_eq!(within(other.get()).await.unwrap(), 9);
    assert_eq!(stage.count(b'q'), 3);
    stage.open();
    stage.run(6).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn of_those_that_wait_the_highest_priority_comes_in_first_also_after_a_restart() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let first = submit(&app, held.s(stage.test, 100)).await.id();
    for (n, priority) in [(0, 0), (1, 5), (2, 0), (3, 9), (4, 5)] {
        let _ = submit(&app, work.s(stage.test, n).priority(priority)).await;
    }
    stage.run(1).await;
    drop(app);
    let app = stage.app(1).await;
    stage.run(2).await;
    assert_eq!(app.live_workflows(), 1);
    stage.open();
    let first = app.async_result::<u64>(first).await.unwrap();
    within(first.get()).await.unwrap();
    assert_eq!(stage.run(7).await, [100, 100, 3, 1, 4, 0, 2]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_running_task_waits_for_comes_in_past_a_full_live_set() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let deep = submit(&app, nested.s(stage.test, 20)).await;
    let behind: Vec<_> = (0..5).map(|n| work.s(stage.test, 100 + n)).collect();
    for canvas in behind {
        let _ = submit(&app, canvas).await;
    }
    assert_eq!(within(deep.get()).await.unwrap(), 20);
    stage.run(26).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_time_takes_no_place_before_it_and_counts_from_its_submission() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let late = submit(&app, work.s(stage.test, 1).countdown(60 * SECOND)).await;
    let chain = work.s(stage.test, 2).countdown(30 * SECOND) | work.si(stage.test, 3);
    let chain = submit(&app, chain).await;
    assert_eq!((stage.count(b'u'), app.live_workflows()), (2, 0));
    assert_eq!(late.state().await.unwrap(), State::Pending);
    let due = stage.clock.now() + 60 * SECOND;
    assert_eq!(late.eta().await.unwrap(), Some(due));
    let now = submit(&app, work.s(stage.test, 0)).await;
    within(now.get()).await.unwrap();
    stage.clock.advance(29 * SECOND);
    drop(app);
    let app = stage.app(1).await;
    assert_eq!((stage.count(b'u'), stage.ran()), (2, vec![0]));
    stage.clock.advance(SECOND);
    let chain = app.async_result::<u64>(chain.id()).await.unwrap();
    assert_eq!(within(chain.get()).await.unwrap(), 3);
    stage.clock.advance(29 * SECOND);
    let late = app.async_result::<u64>(late.id()).await.unwrap();
    assert_eq!(late.state().await.unwrap(), State::Pending);
    stage.clock.advance(SECOND);
    assert_eq!(within(late.get()).await.unwrap(), 1);
    assert_eq!(stage.ran(), [0, 2, 3, 1]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_due_waits_for_a_place_and_what_expires_meanwhile_is_revoked() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let first = submit(&app, held.s(stage.test, 0)).await;
    let due = submit(&app, work.s(stage.test, 1).countdown(10 * SECOND)).await;
    let expires = submit(&app, work.s(stage.test, 2).expires(15 * SECOND)).await;
    stage.clock.advance(10 * SECOND);
    stage.holds(b'q', 2).await;
    assert_eq!(stage.count(b'u'), 0);
    stage.clock.advance(5 * SECOND);
    stage.open();
    within(first.get()).await.unwrap();
    assert_eq!(within(due.get()).await.unwrap(), 1);
    let revoked = within(expires.get()).await;
    assert!(matches!(revoked, Err(Error::Failed(_))), "{revoked:?}");
    assert_eq!(expires.state().await.unwrap(), State::Revoked);
    assert_eq!(stage.ran(), [0, 1]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_idempotency_key_stands_for_what_waits() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let _ = submit(&app, held.s(stage.test, 0)).await;
    let keyed = || work.s(stage.test, 1).idempotency_key("k");
    let first = submit(&app, keyed()).await;
    assert_eq!(submit(&app, keyed()).await.id(), first.id());
    drop(app);
    let app = stage.app(1).await;
    let again = submit(&app, keyed()).await;
    assert_eq!(again.id(), first.id());
    stage.open();
    assert_eq!(within(again.get()).await.unwrap(), 1);
    app.shutdown().await.unwrap();
}

/// An unregistered task takes nobody's place, and runs when it is registered again.
#[tokio::test]
async fn what_nobody_can_run_takes_no_place_of_a_queue() {
    let stage = Stage::new();
    let app = stage.app(1).await;
    let mut lost = Vec::new();
    for n in 0..4 {
        lost.push(submit(&app, held.s(stage.test, n)).await.id());
    }
    drop(app);
    let only = tasks![work];
    let app = App::with_store(stage.store.clone());
    let app = app.clock(stage.clock.clone()).live_workflows(1).tasks(only);
    let app = app.start().await.unwrap();
    let other = submit(&app, work.s(stage.test, 9)).await;
    assert_eq!(within(other.get()).await.unwrap(), 9);
    app.shutdown().await.unwrap();
    stage.open();
    let app = stage.app(1).await;
    for id in lost {
        let result = app.async_result::<u64>(id).await.unwrap();
        within(result.get()).await.unwrap();
    }
    app.shutdown().await.unwrap();
}

/// Every workflow has one head, and one that waits one turn.
fn check_index(store: &MemoryStore) {
    let keys = |tag: u8, from: usize| {
        let all = store.scan(&[tag], &[tag + 1]);
        all.map(move |pair| pair.unwrap().0[from..][..16].to_vec())
    };
    let mut heads = HashSet::new();
    for head in keys(b'b', 1).chain(keys(b'w', 1)).chain(keys(b'e', 9)) {
        assert!(heads.insert(head), "a workflow has two heads");
    }
    let waiting: HashSet<_> = keys(b'b', 1).collect();
    // (The id is behind the length and the name of the lane, and the priority.)
    let lane = 1 + 4 + "default".len() + 1;
    let turns: Vec<_> = keys(b'q', lane)
        .chain(keys(b't', 9))
        .chain(keys(b'u', 9))
        .collect();
    assert_eq!(turns.len(), waiting.len());
    assert!(turns.iter().all(|turn| waiting.contains(turn)));
}

#[tokio::test]
async fn a_crash_behind_any_batch_neither_loses_nor_doubles_what_waits() {
    let (stage, disk) = (Stage::new(), Disk::default());
    let builder = |store| {
        let builder = App::with_store(store).clock(stage.clock.clone());
        builder.live_workflows(2).tasks(tasks![work, held, nested])
    };
    let app = App::with_store(disk.clone()).clock(stage.clock.clone());
    let app = app.live_workflows(2).tasks(tasks![work, held, nested]);
    let app = app.start().await.unwrap();
    let mut told = Vec::new();
    for n in 0..8u64 {
        let canvas = match n {
            0 | 1 => held.s(stage.test, n),
            2 | 3 => work
                .s(stage.test, n)
                .countdown(u32::try_from(n).unwrap() * 5 * SECOND),
            4 => work.s(stage.test, n).priority(9),
            _ => work.s(stage.test, n) | work.si(stage.test, n),
        };
        let result = submit(&app, canvas).await;
        told.push((result, disk.synced()));
    }
    let waiting = disk.batches();
    stage.clock.advance(12 * SECOND);
    stage.open();
    stage.clock.advance(3 * SECOND);
    for (n, (result, _)) in (0..).zip(&told) {
        assert_eq!(within(result.get()).await.unwrap(), n);
    }
    app.shutdown().await.unwrap();
    assert!(disk.batches() > waiting + 3);
    for kept in 0..=disk.batches() {
        let store = disk.crashed_after(kept);
        check_index(&store);
        let before = stage.ran();
        let app = builder(store.clone()).start().await.unwrap();
        for (n, (result, acknowledged)) in (0..).zip(&told) {
            match app.async_result::<u64>(result.id()).await {
                Ok(result) => assert_eq!(within(result.get()).await.unwrap(), n),
                Err(Error::Id(IdError::Unknown { .. })) => {
                    assert!(kept < *acknowledged, "{n} is lost")
                }
                Err(error) => panic!("{error}"),
            }
        }
        app.shutdown().await.unwrap();
        check_index(&store);
        for n in 0..8 {
            let times = |ran: &[u64]| ran.iter().filter(|of| **of == n).count();
            let steps = if n < 5 { 1 } else { 2 };
            assert!(
                times(&stage.ran()) - times(&before) <= steps,
                "{n} ran twice"
            );
        }
    }
}

mod forget {
    use super::*;

    async fn is_unknown(app: &App, id: Id) -> bool {
        matches!(
            app.async_result::<u64>(id).await,
            Err(Error::Id(IdError::Unknown { .. }))
        )
    }

    #[tokio::test]
    async fn what_has_ended_is_unknown_at_once_and_gives_its_space_back() {
        let stage = Stage::new();
        let app = stage.app(9).await;
        let canvas = || work.s(stage.test, 7).idempotency_key("k");
        let result = submit(&app, canvas()).await;
        let id = result.id();
        within(result.get()).await.unwrap();
        within(result.at_rest()).await.unwrap();
        let other = result.clone();
        result.forget().await.unwrap();
        assert!(is_unknown(&app, id).await);
        assert_eq!(within(other.get()).await.unwrap(), 7);
        other.forget().await.unwrap();
        assert!(matches!(
            app.forget(id).await,
            Err(Error::Id(IdError::Unknown { .. }))
        ));
        let again = submit(&app, canvas()).await;
        assert_ne!(again.id(), id);
        within(again.at_rest()).await.unwrap();
        again.forget().await.unwrap();
        // The clock stands still: what a handle kept goes with the next sweep.
        for tag in *b"rsi" {
            within(async {
                while stage.count(tag) > 0 {
                    stage.clock.advance(SECOND);
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        assert_eq!((stage.count(b'e'), stage.count(b'w')), (0, 0));
        app.shutdown().await.unwrap();
        let app = stage.app(9).await;
        assert!(is_unknown(&app, id).await);
        app.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn what_runs_or_waits_is_forgotten_when_it_has_ended_also_after_a_restart() {
        let stage = Stage::new();
        let app = stage.app(1).await;
        let runs = submit(&app, held.s(stage.test, 0)).await.id();
        let waits = submit(&app, held.s(stage.test, 1)).await.id();
        stage.run(1).await;
        for id in [runs, waits] {
            app.forget(id).await.unwrap();
            assert!(!is_unknown(&app, id).await, "it has not ended");
        }
        drop(app);
        let app = stage.app(1).await;
        let both = [
            app.async_result::<u64>(runs).await.unwrap(),
            app.async_result::<u64>(waits).await.unwrap(),
        ];
        stage.open();
        // Who waits for it is told.
        for (n, result) in (0..).zip(&both) {
            assert_eq!(within(result.get()).await.unwrap(), n);
            within(result.at_rest()).await.unwrap();
        }
        drop(both);
        assert!(is_unknown(&app, runs).await && is_unknown(&app, waits).await);
        app.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_part_of_a_workflow_cannot_be_forgotten_alone() {
        let stage = Stage::new();
        for app in [stage.app(1).await, eager().await] {
            let test = stage.test;
            let group = group((0..2).map(move |n| work.s(test, n)));
            let group = app.apply_async(group).await.unwrap();
            within(group.at_rest()).await.unwrap();
            let part = group.children::<u64>().await.unwrap().remove(0);
            let id = part.id();
            assert!(
                matches!(app.forget(id).await, Err(Error::Id(IdError::NotARoot { id: of })) if of == id)
            );
            assert!(matches!(
                part.forget().await,
                Err(Error::Id(IdError::NotARoot { .. }))
            ));
            app.shutdown().await.unwrap();
        }
    }

    /// A value that does not stand in its record.
    #[task(name = "backlog.large")]
    async fn large() -> String {
        "x".repeat(5_000)
    }

    #[tokio::test]
    async fn what_a_crash_leaves_of_a_deletion_goes_when_the_store_is_opened() {
        let (clock, disk) = (Stage::new().clock, Disk::default());
        let app = App::with_store(disk.clone()).clock(clock.clone());
        let app = app.tasks(tasks![large]).start().await.unwrap();
        let group = group((0..1_200).map(|_| large.s()));
        let group = app.apply_async(group).await.unwrap();
        within(group.at_rest()).await.unwrap();
        let (id, before) = (group.id(), disk.batches());
        group.forget().await.unwrap();
        within(is_empty(&disk, &clock)).await;
        app.shutdown().await.unwrap();
        let mut crashes = 0;
        for kept in before..=disk.batches() {
            let store = disk.crashed_after(kept);
            let app = App::with_store(store.clone()).clock(clock.clone());
            let app = app.start().await.unwrap();
            // (It may have been before anybody asked for it.)
            if is_unknown(&app, id).await {
                within(is_empty(&store, &clock)).await;
                crashes += 1;
            }
            app.shutdown().await.unwrap();
        }
        assert!(crashes > 3, "{crashes}");
    }

    /// Waits until there is nothing in the store but its own records, `m`. A sweep passes by what
    /// is looked at that moment and comes again after a second, so time goes on meanwhile.
    async fn is_empty(store: &impl Store, clock: &Clock) {
        while store.scan(b"a", b"m").chain(store.scan(b"n", b"z")).count() > 0 {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    }

    async fn eager() -> App {
        App::eager().tasks(tasks![work]).start().await.unwrap()
    }

    #[tokio::test]
    async fn an_eager_app_forgets_too() {
        let (app, stage) = (eager().await, Stage::new());
        let canvas = || work.s(stage.test, 1).idempotency_key("k");
        let result = submit(&app, canvas()).await;
        let id = result.id();
        assert!(!is_unknown(&app, id).await);
        result.forget().await.unwrap();
        assert!(is_unknown(&app, id).await);
        assert_ne!(submit(&app, canvas()).await.id(), id);
        app.shutdown().await.unwrap();
    }
}
