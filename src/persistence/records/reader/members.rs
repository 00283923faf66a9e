//! The stored members of a group, and the subtasks of a task.

use std::collections::VecDeque;

use super::{Reader, missing};
use crate::canvas::freeze::{FanOutDef, Members, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::{Index, Purpose, Record};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::{keys, member_pages};

impl Reader {
    /// Returns the stored members of `group` in the record that holds `index`: the index of the
    /// first, and the members.
    pub(crate) fn stored_members(
        &self,
        group: Id,
        index: u64,
    ) -> Result<(u64, Vec<Node>), StoreError> {
        let (from, _) = keys::of_node(b'd', group);
        let mut to = keys::members(group, index, u32::MAX);
        to.push(0);
        let last = self
            .store
            .scan(&from, &to)
            .next_back()
            .transpose()?
            .ok_or_else(|| missing(group, &format!("member {index}")))?;
        let first =
            keys::number_of(&last.0).ok_or_else(|| missing(group, &format!("member {index}")))?;
        let from = keys::members(group, first, 0);
        let mut to = keys::members(group, first, u32::MAX);
        to.push(0);
        let mut parts = Vec::new();
        for part in self.store.scan(&from, &to) {
            let (key, value) = part?;
            parts.extend_from_slice(codec::unframe(Kind::Members, &key, &value)?);
        }
        Ok((first, member_pages::decode_members(&from, parts)?))
    }

    pub(super) fn member(&self, group: Id, index: u64) -> Result<Node, StoreError> {
        let (first, nodes) = self.stored_members(group, index)?;
        nodes
            .into_iter()
            .nth((index - first) as usize)
            .ok_or_else(|| missing(group, &format!("member {index}")))
    }

    /// Returns the number of the first member of a fan-out and how many members there are; `None`
    /// for an `each()` whose list is not known yet.
    pub(crate) fn expansion(
        &self,
        group: Id,
        fan: &FanOutDef,
    ) -> Result<Option<(Seq, u64)>, StoreError> {
        match &fan.members {
            Members::Inline(members) => Ok(Some((0, members.len() as u64))),
            Members::Stored(size) => Ok(Some((0, *size))),
            Members::Each { .. } => {
                for record in self.records(group) {
                    if let Record::Expanded { first, size } = record? {
                        return Ok(Some((first, size)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Returns member `index` of the fan-out.
    pub(crate) fn fan_member(
        &self,
        group: Id,
        fan: &FanOutDef,
        first: Seq,
        index: u64,
    ) -> Result<Node, StoreError> {
        match &fan.members {
            Members::Inline(members) => members
                .get(index as usize)
                .cloned()
                .ok_or_else(|| missing(group, &format!("member {index}"))),
            Members::Stored(_) => self.member(group, index),
            Members::Each { template, span, .. } => Ok(template.shifted(first + index * span)),
        }
    }

    /// Returns the subtasks of a task.
    pub(crate) fn subtasks(&self, task: Id) -> Result<Vec<(Index, Purpose, Node)>, StoreError> {
        self.subtasks_in(task, self.records(task))
    }

    /// Returns the subtasks of a task, given the records of its stream.
    pub(crate) fn subtasks_in(
        &self,
        task: Id,
        records: impl Iterator<Item = Result<Record, StoreError>>,
    ) -> Result<Vec<(Index, Purpose, Node)>, StoreError> {
        let mut subtasks = Vec::new();
        for record in records {
            if let Record::Offspring {
                index,
                purpose,
                node,
                ..
            } = record?
            {
                let node = match node {
                    Some(node) => *node,
                    None => self.member(task, index)?,
                };
                subtasks.push((index, purpose, node));
            }
        }
        Ok(subtasks)
    }

    /// Returns the replacement of a task.
    pub(super) fn replacement(&self, task: Id) -> Result<Option<(Index, Node)>, StoreError> {
        let subtasks = self.subtasks(task)?.into_iter();
        let mut replacements = subtasks.filter(|(_, purpose, _)| *purpose == Purpose::Replacement);
        Ok(replacements.next().map(|(index, _, node)| (index, node)))
    }
}

/// A cursor over the members of one fan-out, which reads one record at a time.
#[derive(Debug)]
pub(crate) struct MemberCursor {
    group: Id,
    first: Seq,
    buffer: VecDeque<Node>,
    /// The index of the first member in `buffer`.
    next: u64,
}

impl MemberCursor {
    pub(crate) fn new(group: Id, first: Seq) -> Self {
        Self {
            group,
            first,
            buffer: VecDeque::new(),
            next: 0,
        }
    }

    /// Returns member `index`; reading forward is cheap, going back is not.
    pub(crate) fn get(
        &mut self,
        reader: &Reader,
        fan: &FanOutDef,
        index: u64,
    ) -> Result<Node, StoreError> {
        if !matches!(fan.members, Members::Stored(_)) {
            return reader.fan_member(self.group, fan, self.first, index);
        }
        if index < self.next {
            return reader.member(self.group, index);
        }
        while self.next < index && self.buffer.pop_front().is_some() {
            self.next += 1;
        }
        if self.buffer.is_empty() {
            let (first, nodes) = reader.stored_members(self.group, index)?;
            self.buffer = nodes.into();
            self.buffer.drain(..(index - first) as usize);
            self.next = index;
        }
        self.next += 1;
        self.buffer
            .pop_front()
            .ok_or_else(|| missing(self.group, &format!("member {index}")))
    }
}
