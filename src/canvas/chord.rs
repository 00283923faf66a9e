//! Chords: a group and a body that runs once, when all its members have ended.

use super::{Accepts, Signature};

/// `header | body`: the body gets the header's values, in member order, once all of them are
/// there. If a member fails the others still run, then the chord fails, naming that member, and
/// the body never runs; with [`settled`](Signature::settled) on the header it always does.
/// An empty header runs the body with an empty list.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
/// let ninety = chord(group((0..10).map(|i| add.s(i, i))), xsum.partial());
/// ```
pub fn chord<I, H, B: Accepts<H>>(header: Signature<I, H>, body: B) -> Signature<I, B::Output> {
    header | body
}
