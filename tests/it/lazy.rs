//! Groups from iterators: drawn once, while they are submitted, and stored whole or not at all.

use std::iter;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};

use chordal::persistence::{Batch, MemoryStore, Op, Scan, Store};
use chordal::prelude::*;
use chordal::{Clock, Durability, Error, Id, IdError, StoreError, SubmitError};
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{oneshot, watch};

use crate::disk::Disk;
use crate::recovery::within;

#[task(name = "lazy.length")]
async fn length(text: String) -> usize {
    text.len()
}

#[task(name = "lazy.add")]
async fn add(x: u64, y: u64) -> u64 {
    x + y
}

#[task(name = "lazy.sum")]
async fn xsum(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

#[task(name = "lazy.odd")]
async fn odd(n: u64) -> Result<u64, TaskError> {
    match n % 2 {
        1 => Ok(n),
        _ => Err(TaskError::new("even")),
    }
}

#[task(name = "lazy.why")]
async fn why(failure: TaskFailure) -> String {
    failure.message
}

/// As many members of this size as fill several batches.
const MANY: u64 = 20_000;

fn text() -> String {
    "x".repeat(100)
}

/// A store in memory that counts what is staged and shows when something has changed; its syncs
/// wait while it is shut.
#[derive(Clone, Debug, Default)]
struct Watched {
    inner: MemoryStore,
    /// What had been drawn by whom it may concern when each batch of members was written.
    staged: watch::Sender<Vec<usize>>,
    drawn: Arc<AtomicUsize>,
    shut: Arc<(Mutex<bool>, Condvar)>,
}

impl Watched {
    fn over(inner: MemoryStore) -> Self {
        Self {
            inner,
            ..Self::default()
        }
    }

    async fn start(&self) -> App {
        let builder = App::with_store(self.clone()).tasks(tasks![length, add, xsum, odd, why]);
        builder.start().await.unwrap()
    }

    fn shut(&self, shut: bool) {
        *self.shut.0.lock().unwrap() = shut;
        self.shut.1.notify_all();
    }

    /// What there is of workflows.
    fn keys(&self) -> Vec<Vec<u8>> {
        let all = self.inner.scan(b"a", b"z").map(|pair| pair.unwrap().0);
        all.filter(|key| key[0] != b'm').collect()
    }

    async fn staged(&self, batches: usize) {
        let mut staged = self.staged.subscribe();
        let enough = staged.wait_for(|staged| staged.len() >= batches);
        drop(within(enough).await.unwrap());
    }

    async fn is_swept(&self) {
        let mut changes = self.staged.subscribe();
        let clean = changes.wait_for(|_| self.keys().is_empty());
        drop(within(clean).await.unwrap());
    }
}

impl Store for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.inner.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let has_members = batch
            .ops()
            .iter()
            .any(|op| matches!(op, Op::Put(key, _) if key[0] == b'd'));
        self.inner.apply(batch)?;
        self.staged.send_modify(|staged| {
            if has_members {
                staged.push(self.drawn.load(Ordering::SeqCst));
            }
        });
        Ok(())
    }

    fn sync(&self, _: Durability) -> Result<(), StoreError> {
        let mut shut = self.shut.0.lock().unwrap();
        while *shut {
            shut = self.shut.1.wait(shut).unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn members_are_written_as_they_are_drawn() {
    let store = Watched::default();
    let app = store.start().await;
    let drawn = store.drawn.clone();
    let members = (0..MANY).map(move |_| {
        drawn.fetch_add(1, Ordering::SeqCst);
        length.s(text())
    });
    let result = app.apply_async(group(members)).await.unwrap();
    let staged = store.staged.borrow().clone();
    // One batch is being written, one has been taken, two wait, one is being filled: about 2,000
    // members each.
    assert!(staged[0] < MANY as usize * 5 / 8, "{staged:?}");
    assert_eq!(staged.last(), Some(&(MANY as usize)));
    assert_eq!(result.get().await.unwrap(), vec![100; MANY as usize]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_refusal_late_in_a_group_leaves_nothing_behind() {
    let store = Watched::default();
    let app = store.start().await;
    let members = |last: Canvas| {
        let texts = (1..MANY).map(|_| Canvas::immutable("lazy.length", (text(),)));
        Canvas::group(texts.chain([last]))
    };
    let unknown = || Canvas::task("lazy.nobody", ());
    let wrong = || Canvas::immutable("lazy.length", (7,));
    let nested = (0..40).map(move |n| match n {
        39 => members(unknown()),
        _ => Canvas::group((0..600).map(|_| Canvas::immutable("lazy.length", (text(),)))),
    });
    let sum = || Canvas::task("lazy.sum", ());
    for (canvas, at) in [
        (members(unknown()), "group[19999]"),
        (members(wrong()), "group[19999]"),
        (members(unknown()) | sum(), "chord.header[19999]"),
        (
            Canvas::task("lazy.add", (1, 1)) | members(wrong()) | sum(),
            "chain[1].chord.header[19999]",
        ),
        (Canvas::group(nested), "group[39].group[19999]"),
    ] {
        let before = store.staged.borrow().len();
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::Canvas { path, .. })) => assert_eq!(path, at),
            other => panic!("{other:?}"),
        }
        assert!(store.staged.borrow().len() > before, "nothing was staged");
        assert_eq!(store.keys(), [[0; 0]; 0], "{at}");
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_iterator_that_panics_panics_the_submission_and_leaves_nothing_behind() {
    let store = Watched::default();
    let app = store.start().await;
    // The first is drawn by the caller, the second by another thread.
    for last in [100, MANY - 1] {
        let members = (0..MANY).map(move |n| {
            assert!(n < last, "no more");
            length.s(text())
        });
        let members = members.take(last as usize + 1);
        let submission = app.apply_async(group(members));
        let panic = AssertUnwindSafe(submission).catch_unwind().await;
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"no more"));
        assert_eq!(store.keys(), [[0; 0]; 0]);
    }
    let sum = app.apply_async(add.s(1, 1)).await.unwrap();
    assert_eq!(sum.get().await.unwrap(), 2);
    app.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_that_is_given_up_ends_its_iterator_and_leaves_nothing_behind() {
    for (batches, shut) in [(1, true), (1, false), (4, false)] {
        let store = Watched::default();
        let app = store.start().await;
        store.shut(shut);
        let (alive, ended) = oneshot::channel::<()>();
        let endless = iter::repeat_with(move || {
            let _held = &alive;
            length.s(text())
        });
        // Before the submission is dropped: from then on other threads delete its parts.
        let is_staged = async {
            store.staged(batches).await;
            assert_ne!(store.keys(), [[0; 0]; 0]);
        };
        tokio::select! {
            refused = app.apply_async(group(endless)) => panic!("{refused:?}"),
            () = is_staged => {}
        }
        store.shut(false);
        within(ended).await.unwrap_err();
        store.is_swept().await;
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_in_a_submission_leaves_all_of_it_or_nothing() {
    let disk = Disk::default();
    let app = App::with_store(disk.clone()).tasks(tasks![length]);
    let app = app.start().await.unwrap();
    let opened = disk.batches();
    let submission = app.apply_async(group((0..MANY).map(|_| length.s(text()))));
    let id = submission.await.unwrap().id();
    let acked = disk.synced();
    drop(app);
    let staged = (opened..acked).filter(|count| {
        let store = disk.crashed_after(*count);
        store.scan(b"d", b"e").next().is_some() && store.scan(b"w", b"x").next().is_none()
    });
    assert!(staged.count() > 5);
    for count in opened..=acked {
        let store = Watched::over(disk.crashed_after(count));
        let submitted = store.scan(b"w", b"x").next().is_some();
        let app = store.start().await;
        let result = app.async_result::<Vec<usize>>(id).await;
        match result {
            Ok(result) => {
                assert!(submitted, "after {count} batches");
                let all = within(result.get()).await.unwrap();
                assert_eq!(all, vec![100; MANY as usize]);
            }
            Err(Error::Id(IdError::Unknown { .. })) => {
                assert!(!submitted && count < acked, "after {count} batches");
                store.is_swept().await;
            }
            Err(error) => panic!("after {count} batches: {error}"),
        }
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn sweeping_what_a_crash_left_takes_nothing_that_is_submitted_meanwhile() {
    let disk = Disk::default();
    let late = Clock::manual(std::time::SystemTime::now());
    let app = App::with_store(disk.clone())
        .clock(late)
        .tasks(tasks![length]);
    let app = app.start().await.unwrap();
    let opened = disk.batches();
    let submission = app.apply_async(group((0..MANY).map(|_| length.s(text()))));
    drop(submission.await.unwrap());
    drop(app);

    let store = Watched::over(disk.crashed_after(opened + 2));
    let orphan = store.keys().remove(0);
    // The clock has been set back meanwhile.
    let early = Clock::manual(std::time::SystemTime::UNIX_EPOCH);
    let app = App::with_store(store.clone()).clock(early);
    let app = app.tasks(tasks![length]).start().await.unwrap();
    let members = (0..MANY).map(|_| length.s(text()));
    let result = within(app.apply_async(group(members))).await.unwrap();
    assert!(bytes(result.id())[..] > orphan[1..17], "ids go on rising");
    let all = within(result.get()).await.unwrap();
    assert_eq!(all, vec![100; MANY as usize]);
    let mut changes = store.staged.subscribe();
    let swept = changes.wait_for(|_| !store.keys().contains(&orphan));
    drop(within(swept).await.unwrap());
    app.shutdown().await.unwrap();
}

fn bytes(id: Id) -> [u8; 16] {
    *id.as_uuid().as_bytes()
}

#[tokio::test]
async fn of_a_submission_whose_key_is_known_nothing_is_drawn() {
    for app in [
        Watched::default().start().await,
        App::eager()
            .tasks(tasks![add, length])
            .start()
            .await
            .unwrap(),
    ] {
        let first = app.apply_async(add.s(1, 1).idempotency_key("k"));
        let first = first.await.unwrap().id();
        let members = iter::repeat_with(|| -> Signature<(), usize> { panic!("it is drawn") });
        let second = app.apply_async(group(members).idempotency_key("k"));
        assert_eq!(second.await.unwrap().id(), first);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_iterator_that_waits_for_its_caller_blocks_nobody() {
    let app = Watched::default().start().await;
    let (sender, receiver) = mpsc::channel();
    let submission = app.apply_async(group(receiver.into_iter().map(|n| add.s(n, 1))));
    let feed = async move {
        for n in 0..100 {
            sender.send(n).unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (result, ()) = within(async { tokio::join!(submission, feed) }).await;
    let expected: Vec<_> = (1..=100).collect();
    assert_eq!(result.unwrap().get().await.unwrap(), expected);
    app.shutdown().await.unwrap();
}

/// What is composed around members that are still to be drawn goes to each of them.
#[tokio::test]
async fn a_group_is_the_same_whether_it_is_drawn_or_not() {
    let store = Watched::default();
    let eager = App::eager().tasks(tasks![length, add, xsum, odd, why]);
    let apps = [store.start().await, eager.start().await.unwrap()];
    for (app, n) in apps
        .iter()
        .flat_map(|app| [(app, 5), (app, 300), (app, 3_000)])
    {
        let members = |n: u64| Canvas::group((0..n).map(|i| Canvas::task("lazy.add", (i,))));
        let sum = || Canvas::task("lazy.sum", ());
        let total = |n: u64| n * (n - 1) / 2;
        let value = async |canvas: Canvas| app.apply_async(canvas).await.unwrap().get().await;

        let header = members(n).with_args((1,));
        let twice = (header.clone() | sum(), header.with_args(json!([])) | sum());
        assert_eq!(value(twice.0).await.unwrap(), json!(total(n) + n));
        assert_eq!(value(twice.1).await.unwrap(), json!(total(n) + n));
        let named = members(n).with_kwargs(json!({"y": 2})) | sum();
        assert_eq!(value(named).await.unwrap(), json!(total(n) + 2 * n));
        let fed = Canvas::task("lazy.add", (1, 2)) | members(n) | sum();
        assert_eq!(value(fed).await.unwrap(), json!(total(n) + 3 * n));
        let nested = (0..n / 5).map(move |_| members(5).with_args((0,)) | sum());
        let nested = Canvas::group(nested) | sum();
        assert_eq!(value(nested).await.unwrap(), json!(n / 5 * 10));

        let failing = Canvas::group((0..n).map(|i| Canvas::task("lazy.odd", (i,))));
        let failing = failing.link_error(Canvas::task("lazy.why", ()));
        let settled = value(failing.clone().settled()).await.unwrap();
        let settled = settled.as_array().unwrap().iter();
        let failed = settled.filter(|outcome| outcome.get("Err").is_some());
        assert_eq!(failed.count() as u64, n.div_ceil(2));
        let failing = app.apply_async(failing).await.unwrap();
        failing.at_rest().await.unwrap();
        let last = &failing.children::<u64>().await.unwrap()[n as usize - 1 - (n as usize - 1) % 2];
        let errback = &last.children::<String>().await.unwrap()[0];
        assert_eq!(errback.get().await.unwrap(), "even");

        let items = (0..n).map(|i| (i, 1));
        let chunks = app.apply_async(add.chunks(items, 3)).await.unwrap();
        let chunks = chunks.get().await.unwrap();
        assert_eq!(chunks.len() as u64, n.div_ceil(3));
        assert_eq!(chunks.concat(), (1..=n).collect::<Vec<_>>());
    }
    for app in apps {
        app.shutdown().await.unwrap();
    }
}

#[test]
fn a_look_at_a_canvas_draws_it_once() {
    let drawn = Arc::new(AtomicUsize::new(0));
    let count = drawn.clone();
    let group = group((0..100).map(move |n| {
        count.fetch_add(1, Ordering::SeqCst);
        add.s(n, n)
    }));
    let clone = group.clone();
    assert_eq!(format!("{clone:?}"), "group that is still to be drawn");
    assert_eq!(drawn.load(Ordering::SeqCst), 0);
    let json = [group, clone.clone()].map(|group| group.into_canvas().to_json().unwrap());
    assert_eq!(json[0], json[1]);
    assert_eq!(drawn.load(Ordering::SeqCst), 100);
    assert_eq!(format!("{clone:?}"), "group of 100 (lazy.add, …)");
}

/// Nobody can know how deep it is before it is drawn.
#[tokio::test]
async fn groups_that_are_nested_too_deep_are_refused_as_they_are_drawn() {
    let nest = |levels: usize| {
        (0..levels).fold(Canvas::task("lazy.add", (1, 1)), |inner, _| {
            let mut inner = Some(inner);
            Canvas::group(iter::from_fn(move || inner.take()))
        })
    };
    let store = Watched::default();
    let app = store.start().await;
    let deepest = app.apply_async(nest(127)).await.unwrap();
    deepest.get().await.unwrap();
    for levels in [128, 100_000] {
        for refused in [
            app.apply_async(nest(levels)).await.unwrap_err(),
            app.apply_async(nest(levels).clone()).await.unwrap_err(),
            nest(levels).to_json().map(drop).unwrap_err(),
        ] {
            let text = refused.to_string();
            assert!(text.ends_with("canvases nest at most 128 deep"), "{text}");
        }
    }
    drop(nest(100_000));
    app.shutdown().await.unwrap();
}
