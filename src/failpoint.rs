//! Points with a name, at the places where a crash hurts, at which a test has the process end.
//!
//! `CHORDAL_FAILPOINT=Verdict:3` aborts it when it comes to that one for the third time. There are none
//! but in a debug build with the feature `__failpoints`, which the tests have and no user needs.

/// Where the process may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// A part of a submission is on the disk, and its head is not.
    Staged,
    /// A batch is decided, and not committed.
    Decided,
    /// It is committed, and not synced.
    Committed,
    /// It is synced, and not acted upon.
    Synced,
    /// Whoever reads is told of it, and its functions are not called.
    Shown,
    /// A caller is told that its submission is durable, and others are not.
    Acknowledged,
    /// One of the acts of a batch is done.
    Acted,
    /// A function is about to be called.
    Called,
    /// It has been called, and how it ended is not told.
    Returned,
    /// A barrier has recorded its verdict, and not told it.
    Verdict,
    /// It has told it.
    Told,
    /// A chord's body is on its way.
    Body,
    /// How the body ended is reported.
    BodyEnded,
    /// That a callback is to run is recorded, and it is not started.
    Launched,
    /// It is started.
    Callback,
    /// A workflow's result is recorded.
    Ended,
    /// Its head is where the heads of those are that have ended.
    Moved,
    /// After a restart a workflow has been gone on with.
    Resumed,
    /// What has had its time is being taken away.
    Swept,
    /// A part of what is left of it is deleted.
    Purged,
    /// A checkpoint has handed something to sled.
    Written,
    /// All of it is durable there.
    Settled,
    /// That it is so is noted.
    Marked,
    /// The log has forgotten it.
    Forgotten,
}

/// The process has come to this point.
#[inline]
pub(crate) fn reach(_point: Point) {
    #[cfg(all(debug_assertions, feature = "__failpoints"))]
    armed::reach(_point);
}

/// How often this process has come to each point; none in a release build.
#[cfg(feature = "__failpoints")]
pub fn reached() -> Vec<(String, u64)> {
    #[cfg(debug_assertions)]
    return armed::reached();
    #[cfg(not(debug_assertions))]
    Vec::new()
}

#[cfg(all(debug_assertions, feature = "__failpoints"))]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Point::{self, *};

    /// In the order of their numbers.
    const ALL: [Point; 24] = [
        Staged,
        Decided,
        Committed,
        Synced,
        Shown,
        Acknowledged,
        Acted,
        Called,
        Returned,
        Verdict,
        Told,
        Body,
        BodyEnded,
        Launched,
        Callback,
        Ended,
        Moved,
        Resumed,
        Swept,
        Purged,
        Written,
        Settled,
        Marked,
        Forgotten,
    ];

    static COUNTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

    pub(super) fn reach(point: Point) {
        let count = 1 + COUNTS[point as usize].fetch_add(1, Ordering::Relaxed);
        static ARMED: OnceLock<Option<(Point, u64)>> = OnceLock::new();
        if *ARMED.get_or_init(named) == Some((point, count)) {
            eprintln!("CHORDAL_FAILPOINT: ends at {point:?}");
            std::process::abort();
        }
    }

    pub(super) fn reached() -> Vec<(String, u64)> {
        let count = |point: Point| COUNTS[point as usize].load(Ordering::Relaxed);
        ALL.map(|point| (format!("{point:?}"), count(point))).into()
    }

    fn named() -> Option<(Point, u64)> {
        let text = std::env::var("CHORDAL_FAILPOINT").ok()?;
        let named = text.split_once(':').and_then(|(name, count)| {
            let point = ALL.into_iter().find(|point| format!("{point:?}") == name)?;
            Some((point, count.parse().ok()?))
        });
        Some(named.unwrap_or_else(|| panic!("CHORDAL_FAILPOINT is <point>:<count>, not {text:?}")))
    }
}
