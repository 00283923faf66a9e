//! A scan of redb that sees the writes made meanwhile.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use super::base::{Base, RangeIter};
use crate::persistence::store::{Pair, StoreError};

/// Reads in one transaction of redb until something is written, then in a new one: so it returns
/// current data, and a scan held for long retains no old pages.
pub(super) struct RedbScan<'a> {
    base: &'a Base,
    epoch: &'a AtomicU64,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    /// redb's iterator, and the epoch in which it was created.
    iter: Option<(RangeIter, u64)>,
    /// Set at the end and at the first error, which is the last item.
    is_finished: bool,
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
            iter: None,
            is_finished: false,
        }
    }

    /// Returns whether no key can be between the bounds.
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
        // Loaded before the iterator is created: a batch applied in between only makes it be
        // created again.
        let epoch = self.epoch.load(Ordering::Acquire);
        let iter = match self.iter.take() {
            Some((iter, created)) if created == epoch => iter,
            _ => self
                .base
                .range((as_slice(&self.from), as_slice(&self.to)))?,
        };
        let (iter, _) = self.iter.insert((iter, epoch));
        let pair = self.base.step_iter(|| {
            let step = match end {
                End::Front => iter.next(),
                End::Back => iter.next_back(),
            };
            let step = step.transpose()?;
            Ok(step.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })?;
        if let Some((key, _)) = &pair {
            let bound = Bound::Excluded(key.clone());
            match end {
                End::Front => self.from = bound,
                End::Back => self.to = bound,
            }
        }
        Ok(pair)
    }

    fn item(&mut self, end: End) -> Option<Result<Pair, StoreError>> {
        if self.is_finished {
            return None;
        }
        let item = self.step(end).transpose();
        self.is_finished = !matches!(item, Some(Ok(_)));
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
