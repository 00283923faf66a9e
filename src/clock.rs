//! The clock: the only place that reads the time of day or draws randomness.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::id::Id;
use crate::canvas::time::Time;
use crate::persistence::records::meta;
use crate::persistence::records::steady::ClockReading;
use crate::split_mix;

/// How often the scheduler reads the clocks while any timer is pending: the wall clock may be set,
/// or the machine suspended, without any timer firing.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The engine's source of time: the machine's clock, or one that a test advances by hand.
///
/// There are two kinds of times. A point in time (an `eta`, an `expires_at`) is reached when the
/// clock shows it. A delay (a countdown, the wait before a retry, a retention, a time limit) lasts
/// as long as it says, however the clock is set meanwhile, and also if the process is restarted. It
/// continues while the machine sleeps, and, as far as the clock tells, while it is off.
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
pub struct Clock {
    source: Source,
    /// How many milliseconds the steady scale is ahead of the machine's uptime.
    ahead_ms: i64,
    /// The id of the boot from which the uptime counts, where the system provides one.
    boot: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Source {
    /// The time of this clock's creation, on the monotonic scale.
    System(Instant),
    /// The same, for use where no timer is available.
    Untimed(Instant),
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    /// The start time plus all advances, in milliseconds.
    passed_ms: AtomicU64,
    /// How far the wall clock is set ahead of that (negative: behind), in milliseconds.
    set_ms: AtomicI64,
    /// Notified at each change. `Notify` wakes in the order of waiting; a `watch` does so at
    /// random.
    changed: Notify,
    /// The count of random numbers drawn: the sequence is the same in each run of a test.
    random: AtomicU64,
}

impl Clock {
    /// Returns the machine's clock.
    #[must_use]
    pub fn system() -> Self {
        let boot = meta::boot_id().map(Arc::from);
        Self::over(Source::System(Instant::now()), boot)
    }

    /// Creates a clock that shows `start` until [`advance`](Self::advance) moves it. It uses no
    /// real randomness, so that tests are repeatable: two apps assign the same ids if each has its
    /// own such clock and both show the same time.
    #[must_use]
    pub fn manual(start: SystemTime) -> Self {
        let manual = Manual {
            passed_ms: AtomicU64::new(millis(start)),
            set_ms: AtomicI64::new(0),
            changed: Notify::new(),
            random: AtomicU64::new(0),
        };
        Self::over(Source::Manual(Arc::new(manual)), Some("manual".into()))
    }

    /// Creates a clock whose steady scale starts at the wall clock's time.
    fn over(source: Source, boot: Option<Arc<str>>) -> Self {
        let clock = Self {
            source,
            ahead_ms: 0,
            boot,
        };
        let steady_ms = clock.now_ms();
        clock.at(steady_ms)
    }

    /// Returns the same clock with its steady scale set to `steady_ms`.
    fn at(self, steady_ms: u64) -> Self {
        let ahead_ms = steady_ms.wrapping_sub(self.uptime_ms()).cast_signed();
        Self { ahead_ms, ..self }
    }

    /// Returns the same clock with the store's steady scale continued from its last reading.
    pub(crate) fn going_on(self, last: Option<&ClockReading>) -> Self {
        let (uptime_ms, wall_ms) = (self.uptime_ms(), self.now_ms());
        let boot = self.boot.as_deref();
        // Versions with only one scale stored wall-clock times.
        let steady_ms = last.map_or(wall_ms, |last| last.steady_now(boot, uptime_ms, wall_ms));
        self.at(steady_ms)
    }

    /// Returns a reading of all scales, to be recorded.
    pub(crate) fn reading(&self) -> ClockReading {
        ClockReading {
            boot: self.boot.as_deref().map(str::to_owned),
            uptime_ms: self.uptime_ms(),
            wall_ms: self.now_ms(),
            steady_ms: self.steady_ms(),
        }
    }

    /// Returns the time, in whole milliseconds.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms())
    }

    /// Moves a manual clock forward; timers that are due by then fire.
    ///
    /// # Panics
    ///
    /// If this is the system clock.
    pub fn advance(&self, by: Duration) {
        let manual = self.by_hand();
        let by = by.as_millis() as u64;
        manual.passed_ms.fetch_add(by, Ordering::SeqCst);
        manual.changed.notify_waiters();
    }

    /// Sets a manual clock to another time, as a correction of the machine's clock does: points in
    /// time become due earlier or later by the difference, delays do not. Times before the Unix
    /// epoch count as the epoch.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use chordal::Clock;
    /// let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    /// clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(3_600)); // no time has passed
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(3_660));
    /// ```
    ///
    /// # Panics
    ///
    /// If this is the system clock.
    pub fn set(&self, time: SystemTime) {
        let manual = self.by_hand();
        let passed_ms = manual.passed_ms.load(Ordering::SeqCst);
        let set_ms = millis(time).wrapping_sub(passed_ms).cast_signed();
        manual.set_ms.store(set_ms, Ordering::SeqCst);
        manual.changed.notify_waiters();
    }

    fn by_hand(&self) -> &Manual {
        match &self.source {
            Source::System(_) | Source::Untimed(_) => panic!("only a manual clock can be turned"),
            Source::Manual(manual) => manual,
        }
    }

    /// Returns the wall-clock time in milliseconds since the Unix epoch. The machine's clock may be
    /// set at any time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.time().wall_ms
    }

    /// Returns the time on the steady scale, in milliseconds. The scale continues over restarts.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.uptime_ms().saturating_add_signed(self.ahead_ms)
    }

    /// Returns the times of both scales, read at one moment.
    pub(crate) fn time(&self) -> Time {
        match &self.source {
            Source::System(_) | Source::Untimed(_) => Time {
                steady_ms: self.steady_ms(),
                wall_ms: millis(SystemTime::now()),
            },
            Source::Manual(manual) => {
                let passed_ms = manual.passed_ms.load(Ordering::SeqCst);
                let set_ms = manual.set_ms.load(Ordering::SeqCst);
                Time {
                    steady_ms: passed_ms.saturating_add_signed(self.ahead_ms),
                    wall_ms: passed_ms.saturating_add_signed(set_ms),
                }
            }
        }
    }

    /// Returns the milliseconds since the machine's start, including those in which it slept.
    fn uptime_ms(&self) -> u64 {
        match &self.source {
            Source::System(_start) | Source::Untimed(_start) => {
                #[cfg(target_os = "linux")]
                {
                    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                    (uptime.tv_sec * 1_000 + uptime.tv_nsec / 1_000_000).cast_unsigned()
                }
                #[cfg(not(target_os = "linux"))]
                {
                    _start.elapsed().as_millis() as u64
                }
            }
            Source::Manual(manual) => manual.passed_ms.load(Ordering::SeqCst),
        }
    }

    /// Returns the milliseconds on the scale on which time limits are measured: setting the clock
    /// does not move it, and it starts anew with each process.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        match &self.source {
            Source::System(start) | Source::Untimed(start) => start.elapsed().as_millis() as u64,
            Source::Manual(manual) => manual.passed_ms.load(Ordering::SeqCst),
        }
    }

    /// Returns a random number; a manual clock returns the same sequence in each run.
    pub(crate) fn random(&self) -> u64 {
        match &self.source {
            Source::System(_) | Source::Untimed(_) => rand::random(),
            Source::Manual(manual) => {
                let state = manual.random.fetch_add(split_mix::STEP, Ordering::Relaxed);
                split_mix::number(state.wrapping_add(split_mix::STEP))
            }
        }
    }

    /// Returns the same clock for use without timers: a future that waits for it is not woken at
    /// the time, but completes when it is polled after it. A manual clock still wakes its waiters.
    pub(crate) fn untimed(self) -> Self {
        let source = match self.source {
            Source::System(start) => Source::Untimed(start),
            other => other,
        };
        Self { source, ..self }
    }

    /// Waits until [`elapsed_ms`](Self::elapsed_ms) is `at_ms` or later. Needs tokio's time driver
    /// on the system clock, unless it is [untimed](Self::untimed).
    pub(crate) async fn wait_until(&self, at_ms: u64) {
        match &self.source {
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
                let notified = manual.changed.notified();
                tokio::pin!(notified);
                // Registered before the check, so that no change is missed between check and wait.
                notified.as_mut().enable();
                if self.elapsed_ms() >= at_ms {
                    return;
                }
                notified.await;
            },
        }
    }

    /// Waits until about `ms` milliseconds after `then`, or less if the clocks may show another
    /// time by then: at most one second, and until a manual clock is set.
    pub(crate) async fn rest(&self, then: Time, ms: u64) {
        let Source::Manual(manual) = &self.source else {
            let until = self
                .elapsed_ms()
                .saturating_add(ms.min(CLOCK_CHECK_INTERVAL.as_millis() as u64));
            return self.wait_until(until).await;
        };
        loop {
            let notified = manual.changed.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no change is missed between check and wait.
            notified.as_mut().enable();
            let now = self.time();
            if now.steady_ms >= then.steady_ms.saturating_add(ms)
                || now.ahead_ms() != then.ahead_ms()
            {
                return;
            }
            notified.await;
        }
    }

    /// Returns the value that [`elapsed_ms`](Self::elapsed_ms) will have after `duration`.
    pub(crate) fn after(&self, duration: Duration) -> u64 {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.elapsed_ms().saturating_add(millis)
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Assigns workflow ids, each later than all before it.
#[derive(Debug)]
pub(crate) struct Ids(Mutex<IdState>);

#[derive(Debug)]
struct IdState {
    last: Option<Id>,
    /// The ids that callers chose for submissions whose end is not known.
    taken: HashSet<Id>,
}

/// Why a caller cannot choose an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdRefusal {
    /// It is no id of a workflow, or is later than the clock.
    Unassigned,
    /// It is being used.
    Taken,
}

impl Ids {
    /// Continues after `last`, the latest id in the store.
    pub(crate) fn after(last: Option<Id>) -> Self {
        Self(Mutex::new(IdState {
            last: last.map(Id::root),
            taken: HashSet::new(),
        }))
    }

    pub(crate) fn next(&self, clock: &Clock) -> Id {
        let mut state = self.0.lock();
        let next = Id::next(state.last, clock.now_ms(), clock.random());
        state.last = Some(next);
        next
    }

    /// Takes an id that a caller chose, until it is [released](Self::release).
    pub(crate) fn take(&self, id: Id, clock: &Clock) -> Result<(), IdRefusal> {
        let mut state = self.0.lock();
        let is_past = Some(id) <= state.last || id.submitted_ms() <= clock.now_ms();
        if !id.is_of_workflow() || !is_past {
            return Err(IdRefusal::Unassigned);
        }
        if !state.taken.insert(id) {
            return Err(IdRefusal::Taken);
        }
        state.last = state.last.max(Some(id));
        Ok(())
    }

    pub(crate) fn release(&self, id: Id) {
        self.0.lock().taken.remove(&id);
    }
}
