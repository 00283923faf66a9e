//! The outcomes of a group's members that exist now, in member order.

use super::collected_list::End;
use super::find::{Link, NodeLocation, Step};
use super::{MemberCursor, Reader, Resolution};
use crate::canvas::freeze::FanOutDef;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
use crate::canvas::payload::Payload;
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, LineContent};

impl Reader {
    /// Returns the outcome of each member of a group, chord or fold, `None` for one that has not
    /// ended. What a member added to its chord is not included: it would move the members behind
    /// it. Returns no list while the number of members is unknown.
    pub(crate) fn member_outcomes(
        &self,
        root: Id,
        of: &NodeLocation,
        fan: &FanOutDef,
    ) -> Result<Option<Vec<Option<Outcome>>>, StoreError> {
        let group = root.node(of.node.seq);
        let Some((first, size)) = self.expansion(group, fan)? else {
            return Ok(None);
        };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; size as usize];
        let mut is_decided = false;
        for segment in self.segments_after(group, None) {
            let (key, value) = segment?;
            let value = Payload::from(value);
            for line in codec::lines(&key, value.bytes())? {
                let line = line?;
                is_decided |= matches!(line, LineContent::Record(Record::Verdict(_)));
                let Some(end) = End::of(line) else { continue };
                // (The first outcome of a member counts, and the body is no member.)
                if let Some(slot @ None) = outcomes.get_mut(end.index as usize) {
                    *slot = Some(own(end.into_outcome(&value)));
                }
            }
        }
        if is_decided {
            // The verdict has left out the others.
            let mut cursor = MemberCursor::new(group, first);
            for (index, slot) in (0..).zip(&mut outcomes) {
                if slot.is_none() {
                    let member = cursor.get(self, fan, index)?;
                    let failure = TaskFailure::revoked(root.node(member.seq), member.name());
                    *slot = Some(Outcome::Revoked(failure));
                }
            }
            return Ok(Some(outcomes));
        }
        // Members that never ran end with what is above them.
        if let Some(index) = outcomes.iter().position(Option::is_none)
            && let Some(Resolution::Ended(outcome @ (Outcome::Failure(_) | Outcome::Revoked(_)))) =
                self.resolution_at(root, &of.path_of_member(index as u64))?
        {
            let missing = outcomes.iter_mut().filter(|outcome| outcome.is_none());
            missing.for_each(|slot| *slot = Some(outcome.clone()));
        }
        Ok(Some(outcomes))
    }
}

/// Returns the outcome without the values that the member added to its chord.
fn own(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Success(Value::Extended { own, .. }) => Outcome::Success(*own),
        outcome => outcome,
    }
}

impl NodeLocation {
    /// Returns the path of a member. (Its own number is not on it: only its index finds records.)
    fn path_of_member(&self, index: u64) -> Vec<Step> {
        let mut path = self.path.clone();
        path.push(Step {
            stream: self.node.seq,
            index,
            seq: self.node.seq,
            link: Link::Part,
        });
        path
    }
}
