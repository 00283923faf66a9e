//! A store and a clock that outlive their apps: restarts, crashes, and time as a test turns it.

use std::time::{Duration, SystemTime};

use chordal::TaskEntry;
use chordal::persistence::{MemoryStore, Store};

use super::*;
use crate::disk::Disk;
use crate::recovery::within;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// No record may be longer: RELIABILITY.md, H5.
pub(super) const LONGEST: usize = 7_500;

/// A canvas's end: its value, or the type and the message of its error.
pub(super) type End = Result<Value, (String, String)>;

pub(super) struct World {
    store: MemoryStore,
    pub(super) clock: Clock,
    tasks: Vec<TaskEntry>,
    slots: u64,
    window: u64,
    live: u64,
    grace: Duration,
}

impl World {
    /// With these tasks beside those of the module above.
    pub(super) fn of<const N: usize>(tasks: [TaskEntry; N]) -> Self {
        Self {
            store: MemoryStore::new(),
            clock: Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND),
            tasks: tasks.into(),
            slots: 8,
            window: 1_024,
            live: 10_000,
            grace: Duration::ZERO,
        }
    }

    pub(super) fn slots(mut self, slots: u64) -> Self {
        self.slots = slots;
        self
    }

    pub(super) fn window(mut self, window: u64) -> Self {
        self.window = window;
        self
    }

    /// So many workflows are in memory at a time.
    pub(super) fn live(mut self, live: u64) -> Self {
        self.live = live;
        self
    }

    pub(super) fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    pub(super) fn over(&self, store: impl chordal::persistence::Store) -> AppBuilder {
        App::with_store(store)
            .tasks(all_tasks())
            .tasks(self.tasks.clone())
            .clock(self.clock.clone())
            .concurrency(self.slots)
            .window(self.window)
            .live_workflows(self.live)
            .grace(self.grace)
    }

    pub(super) async fn start(&self) -> App {
        self.over(self.store.clone()).start().await.unwrap()
    }

    /// Shuts the app down, what runs is cut short, and starts it again over the same store.
    pub(super) async fn restart(&self, app: App) -> App {
        within(app.shutdown()).await.unwrap();
        self.start().await
    }

    /// The length of the longest record in the store.
    pub(super) fn longest_record(&self) -> usize {
        let records = self
            .store
            .scan(&[], &[0xff])
            .map(|record| record.unwrap().1.len());
        records.max().unwrap_or_default()
    }

    /// How the canvas ends, while the clock runs on whenever nothing else does.
    pub(super) async fn end<O>(&self, result: &AsyncResult<O>) -> End {
        let result = result.clone().cast::<Value>();
        let time = async {
            loop {
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
                self.clock.advance(SECOND);
            }
        };
        let got = tokio::select! {
            biased;
            got = within(result.get()) => got,
            () = time => unreachable!("time does not end"),
        };
        match got {
            Ok(value) => Ok(value),
            Err(Error::Failed(failure)) => Err((failure.error_type, failure.message)),
            Err(other) => panic!("{other}"),
        }
    }

    /// The delays before the retries of a task, in milliseconds, until it has ended: the clock goes
    /// from one to the next.
    pub(super) async fn delays<O>(&self, result: &AsyncResult<O>) -> Vec<u64> {
        let mut delays = Vec::new();
        let turning = async {
            while !result.ready().await.unwrap() {
                tokio::task::yield_now().await;
                let left = match result.eta().await.unwrap() {
                    Some(eta) => eta.duration_since(self.clock.now()).unwrap_or_default(),
                    None => Duration::ZERO,
                };
                if left > Duration::ZERO {
                    assert_eq!(result.state().await.unwrap(), State::Retry);
                    delays.push(left.as_millis() as u64);
                    self.clock.advance(left);
                }
            }
        };
        within(turning).await;
        delays
    }

    /// How the canvas ends in an app of its own.
    pub(super) async fn run(&self, canvas: impl Into<Canvas>) -> End {
        let app = self.start().await;
        let result = app.apply_async(canvas.into()).await.unwrap();
        let end = self.end(&result).await;
        within(app.shutdown()).await.unwrap();
        end
    }

    /// The canvas ends like this, also from what a crash leaves behind any of its batches.
    pub(super) async fn ends_over_any_crash(&self, canvas: impl Into<Canvas>, expected: &End) {
        let disk = Disk::default();
        let app = self.over(disk.clone()).start().await.unwrap();
        let result = app.apply_async(canvas.into()).await.unwrap();
        assert_eq!(&self.end(&result).await, expected);
        let id = result.id();
        within(result.at_rest()).await.unwrap();
        within(app.shutdown()).await.unwrap();
        for kept in 0..disk.batches() {
            let store = disk.crashed_after(kept);
            let app = self.over(store).start().await.unwrap();
            match app.async_result::<Value>(id).await {
                Ok(result) => {
                    assert_eq!(&self.end(&result).await, expected, "kept {kept}");
                    within(result.at_rest()).await.unwrap();
                }
                Err(Error::Id(IdError::Unknown { .. })) => {}
                Err(other) => panic!("{other}"),
            }
            within(app.shutdown()).await.unwrap();
        }
    }
}

/// Lets the engine do all that it can do before the clock is turned: each of these is a round
/// through all its queues and the store.
pub(super) async fn settle(app: &App) {
    for _ in 0..3 {
        let round = app.apply_async(nothing.s()).await.unwrap();
        within(round.get()).await.unwrap();
    }
}

/// Waits until the state is this.
pub(super) async fn becomes<O>(result: &AsyncResult<O>, state: State) {
    let is = async {
        while result.state().await.unwrap() != state {
            tokio::task::yield_now().await;
        }
    };
    within(is).await;
}

pub(super) fn failed(error_type: &str, message: &str) -> End {
    Err((error_type.to_owned(), message.to_owned()))
}
