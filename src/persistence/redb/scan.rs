//! A walk over redb that follows what is written meanwhile.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use super::base::{Base, RangeIter};
use crate::persistence::{Pair, StoreError};

/// Reads in a transaction of redb's until something is written, then in a new one: so it shows what
/// is there now, and a scan that is held for long keeps no old pages.
pub(super) struct RedbScan<'a> {
    base: &'a Base,
    epoch: &'a AtomicU64,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    /// redb's part, and the epoch in which it was begun.
    walk: Option<(RangeIter, u64)>,
    /// Set at its end and at the first error, which is its last item.
    is_over: bool,
}

impl<'a> RedbScan<'a> {
    pub(super) fn new(
        base: &'a Base,
        epoch: &'a AtomicU64,
        (from, to): (Bound<Vec<u8>>, Bound<Vec<u8>>),
    ) -> Self {
        Self {
            base,
            epoch,
            from,
            to,
            walk: None,
            is_over: false,
        }
    }

    /// Whether there can be anything between the ends.
    fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
            _ => false,
        }
    }

    fn step(&mut self, end: End) -> Result<Option<Pair>, StoreError> {
        if self.is_empty() {
            return Ok(None);
        }
        // Before the walk is begun: what is applied in between only makes it be begun again.
        let epoch = self.epoch.load(Ordering::Acquire);
        let walk = match self.walk.take() {
            Some((walk, begun)) if begun == epoch => walk,
            _ => self
                .base
                .range((as_slice(&self.from), as_slice(&self.to)))?,
        };
        let (walk, _) = self.walk.insert((walk, epoch));
        let pair = self.base.walk(|| {
            let step = match end {
                End::Front => walk.next(),
                End::Back => walk.next_back(),
            };
            let step = step.transpose()?;
            Ok(step.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })?;
        if let Some((key, _)) = &pair {
            let passed = Bound::Excluded(key.clone());
            match end {
                End::Front => self.from = passed,
                End::Back => self.to = passed,
            }
        }
        Ok(pair)
    }

    fn item(&mut self, end: End) -> Option<Result<Pair, StoreError>> {
        if self.is_over {
            return None;
        }
        let item = self.step(end).transpose();
        self.is_over = !matches!(item, Some(Ok(_)));
        item
    }
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Iterator for RedbScan<'_> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.item(End::Front)
    }
}

impl DoubleEndedIterator for RedbScan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.item(End::Back)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
