//! Failpoints: named points, where a crash matters, at which a test can abort the process.
//!
//! `CHORDAL_FAILPOINT=Verdict:3` aborts the process when it reaches that point for the third time.
//! Failpoints exist only in debug builds with the feature `__failpoints`, which the tests enable and
//! users do not need.

/// A point at which the process can be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// A part of a submission is stored, and its header is not.
    Staged,
    /// A batch is decided, and not committed.
    Decided,
    /// The batch is committed, and not synced.
    Committed,
    /// The batch is synced, and not acted upon.
    Synced,
    /// Readers see the batch, and its functions are not called.
    Shown,
    /// One caller knows that its submission is durable, and others do not.
    Acknowledged,
    /// One of a batch's actions is done.
    Acted,
    /// A function is about to be called.
    Called,
    /// A function has returned, and its outcome is not reported.
    Returned,
    /// A barrier has recorded its verdict, and not sent it.
    Verdict,
    /// A barrier has sent its verdict.
    Told,
    /// A chord's body is started.
    Body,
    /// The outcome of a chord's body is reported.
    BodyEnded,
    /// A callback is recorded as launched, and not started.
    Launched,
    /// A callback is started.
    Callback,
    /// A workflow's result is recorded.
    Ended,
    /// A workflow's header is moved to those of the ended workflows.
    Moved,
    /// A workflow is resumed after a restart.
    Resumed,
    /// An expired workflow is being deleted.
    Swept,
    /// A part of its remaining records is deleted.
    Purged,
    /// A checkpoint has written a part of its changes to sled.
    Written,
    /// All changes of a checkpoint are durable in sled.
    Settled,
    /// The end of a checkpoint is recorded.
    Marked,
    /// The log has dropped the changes of a checkpoint.
    Forgotten,
}

/// Notes that the process has reached this point, and aborts it if that was asked for.
#[inline]
pub(crate) fn reach(_point: Point) {
    #[cfg(all(debug_assertions, feature = "__failpoints"))]
    armed::reach(_point);
}

/// Returns how often this process has reached each point; empty in a release build.
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

    /// In the order of their discriminants.
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

    pub(crate) fn reach(point: Point) {
        let count = 1 + COUNTS[point as usize].fetch_add(1, Ordering::Relaxed);
        static ARMED: OnceLock<Option<(Point, u64)>> = OnceLock::new();
        if *ARMED.get_or_init(named) == Some((point, count)) {
            eprintln!("CHORDAL_FAILPOINT: ends at {point:?}");
            std::process::abort();
        }
    }

    pub(crate) fn reached() -> Vec<(String, u64)> {
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
