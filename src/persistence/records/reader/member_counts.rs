//! Counts the members of a group by what their supervisor's stream says, page by page.

use std::collections::HashSet;
use std::ops::Range;

use super::{MemberCursor, NodeLocation, Reader};
use crate::canvas::freeze::Def;
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Index, IndexSet, Record, is_member};
use crate::persistence::records::codec::{self, RecordSummary};
use crate::persistence::{Pair, StoreError};

/// Members that are canvases record nothing in the stream when they begin. So many of them that
/// have not ended are asked whether they have begun: no more are in memory with the default
/// [`window`](crate::AppBuilder::window).
const LOOKED_AT: usize = 2_048;

/// How many members of a group, chord or fold have ended, and which of them run: as far as the
/// stream was read.
#[derive(Clone, Debug)]
pub(crate) struct MemberCounts {
    ended: IndexSet,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Tasks of which an attempt runs.
    running: HashSet<Index>,
}

impl MemberCounts {
    /// Counts nothing yet of a group of this size.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            ended: IndexSet::new(size),
            succeeded: 0,
            failed: 0,
            running: HashSet::new(),
        }
    }

    /// Adds the next page of the stream.
    pub(crate) fn add(&mut self, (key, page): &Pair) -> Result<(), StoreError> {
        for summary in codec::summaries(key, page)? {
            match summary {
                RecordSummary::Done(index) => self.end(index, true),
                RecordSummary::Started(range) => {
                    self.running.extend(range.filter(|index| is_member(*index)));
                }
                RecordSummary::Record(Record::Child { index, change }) => match change {
                    ChildProgress::Done(_) => self.end(index, false),
                    ChildProgress::Started(_) if is_member(index) => {
                        self.running.insert(index);
                    }
                    ChildProgress::Waiting { .. } | ChildProgress::WaitingUntil { .. } => {
                        self.running.remove(&index);
                    }
                    ChildProgress::Started(_) => {}
                },
                // Members without an outcome are left out: they are revoked.
                RecordSummary::Record(Record::Verdict(_)) => {
                    self.failed += self.ended.missing();
                    self.ended.fill();
                    self.running.clear();
                }
                RecordSummary::Record(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the indices of the members that have not ended, as ranges.
    pub(super) fn missing_ranges(&self) -> impl Iterator<Item = Range<Index>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = self.ended.next_missing(next)?;
            next = self.ended.next_present(start);
            Some(start..next)
        })
    }

    fn end(&mut self, index: Index, has_succeeded: bool) {
        if self.ended.insert(index) {
            self.running.remove(&index);
            match has_succeeded {
                true => self.succeeded += 1,
                false => self.failed += 1,
            }
        }
    }
}

impl Reader {
    /// Counts the members of a group, chord or fold; `None` while their number is unknown.
    pub(crate) fn member_counts(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<MemberCounts>, StoreError> {
        let Some(size) = self.member_count(root, of)? else {
            return Ok(None);
        };
        let mut counts = MemberCounts::new(size);
        for page in self.segments_after(root.node(of.node.seq), None) {
            counts.add(&page?)?;
        }
        Ok(Some(counts))
    }

    /// Returns the number of members of a group, chord or fold, if it is known.
    pub(crate) fn member_count(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<u64>, StoreError> {
        let Some(fan) = of.node.def.header() else {
            return Ok(None);
        };
        let expansion = self.expansion(root.node(of.node.seq), fan)?;
        Ok(expansion.map(|(_, size)| size))
    }

    /// Returns how many members have begun and not ended.
    pub(crate) fn running_members(
        &self,
        root: Id,
        of: &NodeLocation,
        counts: &MemberCounts,
    ) -> Result<u64, StoreError> {
        let group = root.node(of.node.seq);
        let Some(fan) = of.node.def.header() else {
            return Ok(0);
        };
        let Some((first, _)) = self.expansion(group, fan)? else {
            return Ok(0);
        };
        let mut cursor = MemberCursor::new(group, first);
        let mut running = counts.running.len() as u64;
        let mut next = 0;
        for _ in 0..LOOKED_AT {
            let Some(index) = counts.ended.next_missing(next) else {
                break;
            };
            let member = cursor.get(self, fan, index)?;
            match member.def {
                // It is counted by its records.
                Def::Task(_) => {}
                _ => running += u64::from(self.any_record(root, &member)?),
            }
            next = index + 1;
        }
        Ok(running)
    }
}
