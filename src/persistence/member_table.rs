//! The roster of a group or header that runs: where each member stands, and the list they become.

use super::StoreError;
use super::reader::{MemberCursor, Reader};
use crate::canvas::freeze::{FanOutDef, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Index;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::outcome::Value;
use crate::canvas::payload::Payload;

#[derive(Debug)]
pub(crate) struct MemberTable {
    /// The group or chord.
    group: Id,
    fan: FanOutDef,
    size: u64,
    cursor: MemberCursor,
    /// The list upstream, taken apart, if each member gets one element.
    elements: Option<Vec<Payload>>,
    input: Option<Value>,
}

impl MemberTable {
    /// `size` members, numbered from `first` on where they are not in the fan.
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

    /// Where member `index` stands, with what it is given.
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

    /// What the group gives once its barrier has released it.
    pub(crate) fn list(&self) -> Value {
        self.fan.list(self.group.seq(), self.size)
    }

    /// Something needs the list.
    pub(crate) fn is_followed(&self) -> bool {
        self.fan.followed
    }
}
