//! The member table of a running group or header: the node of each member, and the list of their
//! outcomes.

use super::reader::{MemberCursor, Reader};
use crate::canvas::freeze::{FanOutDef, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Index;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::outcome::Value;
use crate::canvas::payload::Payload;
use crate::persistence::StoreError;

#[derive(Debug)]
pub(crate) struct MemberTable {
    /// The id of the group or chord.
    group: Id,
    fan: FanOutDef,
    size: u64,
    cursor: MemberCursor,
    /// The elements of the upstream list, if each member gets one of them.
    elements: Option<Vec<Payload>>,
    input: Option<Value>,
}

impl MemberTable {
    /// Creates the table of `size` members, numbered from `first` on if the fan-out does not
    /// contain them.
    pub(crate) fn new(
        group: Id,
        fan: FanOutDef,
        (first, size): (Seq, u64),
        elements: Option<Vec<Payload>>,
        input: Option<Value>,
    ) -> Self {
        Self {
            group,
            fan,
            size,
            cursor: MemberCursor::new(group, first),
            elements,
            input,
        }
    }

    pub(crate) fn group(&self) -> Id {
        self.group
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn node(&mut self, reader: &Reader, index: Index) -> Result<Node, StoreError> {
        self.cursor.get(reader, &self.fan, index)
    }

    /// Returns the specification of member `index`, with its input.
    pub(crate) fn member(
        &mut self,
        reader: &Reader,
        index: Index,
    ) -> Result<ChildSpec, StoreError> {
        let node = self.node(reader, index)?;
        let input = match &self.elements {
            Some(elements) => elements.get(index as usize).cloned().map(Value::Inline),
            None => self.input.clone(),
        };
        Ok(ChildSpec::member(self.group, index, node, input))
    }

    /// Returns the value of the group after its barrier has released it.
    pub(crate) fn list(&self) -> Value {
        self.fan.list(self.group.seq(), self.size)
    }

    /// Returns whether a later step needs the list.
    pub(crate) fn is_followed(&self) -> bool {
        self.fan.followed
    }
}
