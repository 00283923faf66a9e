//! The clock: the only place that reads the time of day or draws randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::id::Id;

/// Where the engine takes its time from: the machine's clock, or one that a test turns by hand.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// use chordal::Clock;
///
/// let clock = Clock::manual(SystemTime::UNIX_EPOCH);
/// let handle = clock.clone(); // the same clock: give it to `AppBuilder::clock`
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(handle.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// When this clock was made, on the monotonic scale.
    System(Instant),
    /// The same where there may be no timers.
    Untimed(Instant),
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    now_ms: AtomicU64,
    /// Rung when it has been turned. It wakes in the order of waiting: a `watch` does so at random.
    bell: Notify,
    /// How many random numbers were drawn: a test that draws the same gets the same.
    draws: AtomicU64,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that stands at `start` until [`advance`](Self::advance) moves it. It draws no
    /// randomness, so that a test can be repeated: the ids of two apps are the same if each has such
    /// a clock of its own and these stand alike.
    #[must_use]
    pub fn manual(start: SystemTime) -> Self {
        Self(Source::Manual(Arc::new(Manual {
            now_ms: AtomicU64::new(millis(start)),
            bell: Notify::new(),
            draws: AtomicU64::new(0),
        })))
    }

    /// Returns the time, in whole milliseconds.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms())
    }

    /// Moves a manual clock forward; what is due by then happens.
    ///
    /// # Panics
    ///
    /// On the system clock.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::System(_) | Source::Untimed(_) => panic!("only a manual clock can be advanced"),
            Source::Manual(manual) => {
                let by = by.as_millis() as u64;
                manual.now_ms.fetch_add(by, Ordering::SeqCst);
                manual.bell.notify_waiters();
            }
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System(_) | Source::Untimed(_) => millis(SystemTime::now()),
            Source::Manual(manual) => manual.now_ms.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds on a scale that no setting of the clock moves: what waits is measured on it.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        match &self.0 {
            Source::System(start) | Source::Untimed(start) => start.elapsed().as_millis() as u64,
            Source::Manual(manual) => manual.now_ms.load(Ordering::SeqCst),
        }
    }

    /// A random number; of a manual clock the same sequence each time.
    pub(crate) fn random(&self) -> u64 {
        match &self.0 {
            Source::System(_) | Source::Untimed(_) => rand::random(),
            // SplitMix64 (Steele, Lea and Flood, 2014).
            Source::Manual(manual) => {
                let draw = manual.draws.fetch_add(1, Ordering::Relaxed) + 1;
                let mut z = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// The same clock for where nobody has timers: who waits for it is not woken by it, but sees
    /// that the time has come when anything else wakes him. A manual clock wakes all the same.
    pub(crate) fn untimed(self) -> Self {
        match self.0 {
            Source::System(start) => Self(Source::Untimed(start)),
            other => Self(other),
        }
    }

    /// Returns once [`elapsed_ms`](Self::elapsed_ms) is `at_ms` or later. Needs tokio's time
    /// driver on the system clock, unless it is [untimed](Self::untimed).
    pub(crate) async fn wait_until(&self, at_ms: u64) {
        match &self.0 {
            Source::System(_) => {
                let left = at_ms.saturating_sub(self.elapsed_ms());
                tokio::time::sleep(Duration::from_millis(left)).await;
            }
            Source::Untimed(_) => {
                let is_due = |_: &mut Context<'_>| match self.elapsed_ms() >= at_ms {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
                std::future::poll_fn(is_due).await;
            }
            Source::Manual(manual) => loop {
                let rung = manual.bell.notified();
                tokio::pin!(rung);
                // Registered before the look, so that nothing is missed between look and wait.
                rung.as_mut().enable();
                if self.elapsed_ms() >= at_ms {
                    return;
                }
                rung.await;
            },
        }
    }

    /// The [`elapsed_ms`](Self::elapsed_ms) at which this much more time has passed.
    pub(crate) fn after(&self, duration: Duration) -> u64 {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.elapsed_ms().saturating_add(millis)
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Gives workflow ids, each later than all before it.
#[derive(Debug)]
pub(crate) struct Ids {
    last: Mutex<Option<Id>>,
}

impl Ids {
    /// Goes on after `last`, the latest id in the store.
    pub(crate) fn after(last: Option<Id>) -> Self {
        Self {
            last: Mutex::new(last.map(Id::root)),
        }
    }

    pub(crate) fn next(&self, clock: &Clock) -> Id {
        let mut last = self.last.lock();
        let next = Id::next(*last, clock.now_ms(), clock.random());
        *last = Some(next);
        next
    }
}
