//! What a node waits for, as far as the store shows it.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::find::{Link, NodeLocation};
use super::{ChildStatus, MemberCounts, Reader};
use crate::canvas::freeze::{Def, Node, TaskDef};
use crate::canvas::id::{Id, WORKFLOW_STREAM};
use crate::canvas::machine::{BODY, ChildProgress};
use crate::canvas::time::{Moment, Time};
use crate::canvas::why::{MISSING_RANGES, Why};
use crate::persistence::StoreError;
use crate::persistence::records::backlog::WaitReason;

/// What the store shows of a node.
#[derive(Debug)]
pub(crate) enum StoredWhy {
    /// The whole answer.
    Known(Why),
    /// Nothing before this task is unfinished. An attempt is on record and not its end, or none is.
    Task { def: TaskDef, has_started: bool },
}

impl Reader {
    /// Returns what a node waits for.
    pub(crate) fn why(
        &self,
        root: Id,
        location: &NodeLocation,
        now: Time,
    ) -> Result<StoredWhy, StoreError> {
        if self.resolution(root, location)?.is_some() {
            return Ok(StoredWhy::Known(Why::Ended));
        }
        if let Some(why) = self.why_workflow(root, &location.node, now)? {
            return Ok(StoredWhy::Known(why));
        }
        if let Some(why) = self.why_before(root, location)? {
            return Ok(StoredWhy::Known(why));
        }
        self.why_node(root, location, now)
    }

    /// Returns what a workflow that is not live waits for.
    fn why_workflow(&self, root: Id, node: &Node, now: Time) -> Result<Option<Why>, StoreError> {
        let Some(waiting) = self.waiting(root)? else {
            return Ok(None);
        };
        let first = match waiting.turn {
            WaitReason::Queue { lane, .. } => return Ok(Some(Why::Backlog { queue: lane })),
            WaitReason::Time(at_ms) => Some(Moment::wall(at_ms)),
            // (All of it waits for the first of its tasks.)
            WaitReason::Until(earliest) => {
                let moments = earliest.moments();
                moments.min_by_key(|moment| now.on_the_wall(*moment))
            }
        };
        let at = self.waits_until(root, node)?.or(first);
        Ok(at.map(|at| Why::Time { at: shown(now, at) }))
    }

    /// Returns the part that must end before this node starts. Nodes further out come first: as
    /// long as the chain around it has not started, neither has the node.
    fn why_before(&self, root: Id, location: &NodeLocation) -> Result<Option<Why>, StoreError> {
        for (step, below) in location.path.iter().zip(location.path.iter().skip(1)) {
            let above = root.node(step.seq);
            if below.link == Link::Aside {
                // A callback that is on record to run runs, or waits as any task.
                if below.stream == WORKFLOW_STREAM && !self.is_due(root, below.seq)? {
                    return self.part(above);
                }
                continue;
            }
            if below.stream != step.seq || below.index == 0 {
                continue;
            }
            let Some(node) = self.find(above)? else {
                continue;
            };
            match &node.node.def {
                Def::Chain(steps) => {
                    let before = below.index - 1;
                    let status = self.child_status(above, before)?;
                    if !matches!(status, ChildStatus::At(ChildProgress::Done(_)))
                        && let Some(step) = steps.get(before as usize)
                    {
                        return Ok(Some(step_of(root, step)));
                    }
                }
                Def::Chord { .. } | Def::Fold { .. } if below.index == BODY => {
                    match self.barrier(root, &node)? {
                        Some(Why::Barrier { arrived, of, .. }) if arrived == of => {}
                        Some(barrier) => return Ok(Some(barrier)),
                        // The list of its members is not known yet.
                        None => {}
                    }
                }
                Def::Chord { .. } | Def::Fold { .. } | Def::Group(_) | Def::Task(_) => {}
            }
        }
        Ok(None)
    }

    fn why_node(
        &self,
        root: Id,
        location: &NodeLocation,
        now: Time,
    ) -> Result<StoredWhy, StoreError> {
        let node = &location.node;
        let id = root.node(node.seq);
        match &node.def {
            Def::Task(def) => self.why_task(root, location, def, now),
            Def::Chain(steps) => {
                for (index, step) in (0..).zip(steps) {
                    let status = self.child_status(id, index)?;
                    if !matches!(status, ChildStatus::At(ChildProgress::Done(_))) {
                        return Ok(StoredWhy::Known(step_of(root, step)));
                    }
                }
                Ok(StoredWhy::Known(Why::Turn))
            }
            Def::Group(_) => {
                let barrier = self.barrier(root, location)?;
                Ok(StoredWhy::Known(barrier.unwrap_or(Why::Turn)))
            }
            Def::Chord { body, .. } | Def::Fold { body, .. } => {
                let why = match self.barrier(root, location)? {
                    Some(Why::Barrier { arrived, of, .. }) if arrived == of => step_of(root, body),
                    Some(barrier) => barrier,
                    None => Why::Turn,
                };
                Ok(StoredWhy::Known(why))
            }
        }
    }

    fn why_task(
        &self,
        root: Id,
        location: &NodeLocation,
        def: &TaskDef,
        now: Time,
    ) -> Result<StoredWhy, StoreError> {
        let id = root.node(location.node.seq);
        let Some(step) = location.path.last() else {
            return Ok(StoredWhy::Known(Why::Turn));
        };
        let last = self.last_change(root.node(step.stream), step.index)?;
        if let Some((history, until)) = last.as_ref().and_then(ChildProgress::awaited)
            && !now.has_reached(until)
        {
            let at = shown(now, until);
            return Ok(StoredWhy::Known(match history.attempt {
                0 => Why::Time { at },
                attempt => Why::Retry {
                    at,
                    attempt: attempt + 1,
                },
            }));
        }
        let has_started = match last {
            Some(ChildProgress::Started(_)) => true,
            // (One that is done has a value that is not the task's own: its replacement's.)
            Some(ChildProgress::Done(_)) => true,
            Some(ChildProgress::Waiting { .. } | ChildProgress::WaitingUntil { .. }) | None => {
                false
            }
        };
        if has_started && let Some((_, node)) = self.replacement(id)? {
            let id = root.node(node.seq);
            return Ok(StoredWhy::Known(Why::Replacement { id }));
        }
        Ok(StoredWhy::Task {
            def: def.clone(),
            has_started,
        })
    }

    /// Returns how many members of a group, chord or fold have ended; `None` while their number is
    /// unknown.
    fn barrier(&self, root: Id, of: &NodeLocation) -> Result<Option<Why>, StoreError> {
        let (Some(counts), Some(size)) =
            (self.member_counts(root, of)?, self.member_count(root, of)?)
        else {
            return Ok(None);
        };
        Ok(Some(Why::Barrier {
            id: root.node(of.node.seq),
            arrived: counts.succeeded + counts.failed,
            of: size,
            missing: missing(&counts),
        }))
    }

    fn is_due(&self, root: Id, callback: u64) -> Result<bool, StoreError> {
        let change = self.child_status(root.workflow_stream(), callback)?;
        if !matches!(change, ChildStatus::Unstarted) {
            return Ok(true);
        }
        self.has_due_record(root.workflow_stream(), callback)
    }

    fn part(&self, id: Id) -> Result<Option<Why>, StoreError> {
        let found = self.find(id)?;
        Ok(found.map(|location| step_of(id.root(), &location.node)))
    }
}

fn missing(counts: &MemberCounts) -> Vec<Range<u64>> {
    counts.missing_ranges().take(MISSING_RANGES).collect()
}

fn step_of(root: Id, node: &Node) -> Why {
    Why::Step {
        id: root.node(node.seq),
        name: node.name().to_owned(),
    }
}

/// Returns a moment by the machine's clock as it is set now.
pub(crate) fn shown(now: Time, at: Moment) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(now.on_the_wall(at))
}
