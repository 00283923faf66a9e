//! A scan of the base and the memtables over it.

use std::ops::Bound;

use super::base::Base;
use super::layers::Layers;
use super::memtable::{Bounds, End};
use crate::persistence::store::{Pair, StoreError};

/// Takes the lock for one step at a time, so that writers never wait for a scan that is held.
///
/// Invariant: the pairs it keeps of the base were read in `epoch`, so a pair that is no longer true
/// is superseded in a memtable. When the epoch has passed, the rest is read from the base again.
pub(crate) struct LayeredScan<'a, B: Base> {
    layers: &'a Layers<B>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    epoch: u64,
    /// The base's part; `None` once the base has no more pairs between the two ends.
    walk: Option<B::Range<'a>>,
    /// Pairs read from the base's ends and not yet returned.
    front: Option<Pair>,
    back: Option<Pair>,
    /// Set at the first error, which is the last item.
    failed: bool,
}

impl<'a, B: Base> LayeredScan<'a, B> {
    /// Creates a scan over `[from, to)`, which is not empty.
    pub(crate) fn new(layers: &'a Layers<B>, from: &[u8], to: &[u8]) -> Self {
        let mut scan = Self {
            layers,
            from: Bound::Included(from.to_vec()),
            to: Bound::Excluded(to.to_vec()),
            epoch: 0,
            walk: None,
            front: None,
            back: None,
            failed: false,
        };
        scan.restart();
        scan
    }

    fn restart(&mut self) {
        (self.front, self.back) = (None, None);
        let layers = self.layers;
        let memtables = layers.memtables.read();
        self.epoch = memtables.epoch;
        let bounds = self.bounds().filter(|bounds| memtables.reach_base(*bounds));
        drop(memtables);
        self.walk = bounds.map(|bounds| layers.base.range(bounds));
    }

    /// Returns the bounds of the rest, if there can be any.
    fn bounds(&self) -> Option<Bounds<'_>> {
        let bounds = (as_slice(&self.from), as_slice(&self.to));
        // `BTreeMap::range` panics when the ends have met or passed each other.
        match bounds {
            (Bound::Excluded(last) | Bound::Included(last), Bound::Excluded(to)) if last >= to => {
                None
            }
            bounds => Some(bounds),
        }
    }

    /// Reads the base's next pair at this end ahead.
    fn peek(&mut self, end: End) -> Result<Option<&Pair>, StoreError> {
        let (mine, other) = match end {
            End::Front => (&mut self.front, &mut self.back),
            End::Back => (&mut self.back, &mut self.front),
        };
        if mine.is_none() {
            if let Some(walk) = &mut self.walk {
                let pair = match end {
                    End::Front => walk.next(),
                    End::Back => walk.next_back(),
                };
                *mine = pair.transpose()?;
                if mine.is_none() {
                    self.walk = None;
                }
            }
            // Between the ends there is nothing more: the pair that the other end has read ahead is
            // the last.
            if self.walk.is_none() && mine.is_none() {
                *mine = other.take();
            }
        }
        Ok(mine.as_ref())
    }

    fn take(&mut self, end: End) -> Option<Pair> {
        match end {
            End::Front => self.front.take(),
            End::Back => self.back.take(),
        }
    }

    /// Moves the bound of this end to `key`.
    fn pass(&mut self, end: End, key: &[u8]) {
        let bound = match end {
            End::Front => &mut self.from,
            End::Back => &mut self.to,
        };
        match bound {
            // (The memory for the key is reused.)
            Bound::Excluded(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            _ => *bound = Bound::Excluded(key.to_vec()),
        }
    }

    fn step(&mut self, end: End) -> Result<Option<Pair>, StoreError> {
        let layers = self.layers;
        loop {
            // The base is read without the lock: it may have to read the disk.
            self.peek(end)?;
            let memtables = layers.memtables.read();
            if memtables.epoch != self.epoch {
                drop(memtables);
                self.restart();
                continue;
            }
            let Some(bounds) = self.bounds() else {
                return Ok(None);
            };
            let below = match end {
                End::Front => &self.front,
                End::Back => &self.back,
            };
            let over = memtables.end(end, bounds);
            let (is_over, is_below) = match (over, below) {
                (None, None) => return Ok(None),
                (Some((over, _)), Some((below, _))) => {
                    (!end.is_nearer(below, over), !end.is_nearer(over, below))
                }
                (over, below) => (over.is_some(), below.is_some()),
            };
            let over = over
                .filter(|_| is_over)
                .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
            drop(memtables);
            let below = is_below.then(|| self.take(end)).flatten();
            // A memtable's entry is newer than the base's.
            let Some((key, value)) = over.or(below.map(|(key, value)| (key, Some(value)))) else {
                unreachable!("one of the two is next");
            };
            self.pass(end, &key);
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
    }

    fn item(&mut self, end: End) -> Option<Result<Pair, StoreError>> {
        if self.failed {
            return None;
        }
        let item = self.step(end).transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

impl<B: Base> Iterator for LayeredScan<'_, B> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.item(End::Front)
    }
}

impl<B: Base> DoubleEndedIterator for LayeredScan<'_, B> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.item(End::Back)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
