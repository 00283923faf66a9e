//! The members of a group, chord or fold, and the barrier that counts them.

use std::collections::HashMap;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Recipient};

use super::barrier::BarrierActor;
use super::child::{BARRIER, Child, ExitGuard, Resume};
use super::context::EngineContext;
use super::event_queue::EventQueue;
use super::supervision::abandoned_report;
use crate::canvas::freeze::{Def, FanOutDef, Members};
use crate::canvas::machine::barrier::Barrier;
use crate::canvas::machine::fold_run::is_run;
use crate::canvas::machine::{AttemptHistory, ChildProgress, Index, IndexSet, Record, Report};
use crate::canvas::outcome::FailureKind;
use crate::messages::supervisor::{ChildEnded, ChildEvent, Decided, EventsReady};
use crate::persistence::StoreError;
use crate::persistence::records::codec::RecordSummary;
use crate::persistence::records::member_table::MemberTable;
use crate::persistence::records::reader::ElementsError;

/// The members of one group or header, and the queue to which they report.
#[derive(Debug)]
pub(crate) struct FanOut {
    members: MemberTable,
    /// The queue of the barrier.
    barrier: EventQueue,
    /// When the group was reached, in milliseconds on the steady scale. The countdowns of members that
    /// start later begin there.
    since_ms: u64,
    /// After a restart: the progress of each child that had started.
    resumed: Option<HashMap<Index, ChildProgress>>,
}

/// Opens the members of a supervisor and starts its barrier. If that fails, the error is the report
/// of the supervisor; there is no report if the engine halts or the supervisor is an orphan.
pub(crate) fn open<A>(
    engine: &EngineContext,
    child: &Child,
    fan: FanOutDef,
    events: EventQueue,
    context: &mut Context<A>,
) -> Result<(FanOut, IndexSet), Option<Report>>
where
    A: Actor<Context = Context<A>> + Handler<Decided> + Handler<EventsReady>,
{
    if child.is_orphaned() {
        context.terminate();
        return Err(None);
    }
    let owner = context.address().recipient();
    let errbacks = fan.own_errbacks().to_vec();
    FanOut::open(engine, child, fan, owner, events).map_err(|error| match error {
        ElementsError::Store(error) => {
            engine.halt(error.into());
            None
        }
        ElementsError::Unusable(what) => {
            let failure = child.failure(FailureKind::Type, &what);
            Some(Report::calling_for(&errbacks, failure))
        }
    })
}

impl FanOut {
    /// Reads the records of the group and starts its barrier. Returns the members that are not to start.
    fn open(
        engine: &EngineContext,
        child: &Child,
        fan: FanOutDef,
        owner: Recipient<Decided>,
        supervisor: EventQueue,
    ) -> Result<(Self, IndexSet), ElementsError> {
        let group = child.id();
        let reader = engine.reader();
        let resumes = matches!(child.resume, Resume::Stored(_));
        let elements = reader.elements(child.root, &fan, child.input.as_ref())?;
        let known = match fan.members {
            Members::Each { .. } if !resumes => None,
            _ => reader.expansion(group, &fan)?,
        };
        let (first, size) = match (known, &fan.members) {
            (Some(known), _) => known,
            (None, Members::Each { span, .. }) => {
                let size = elements.as_ref().map_or(0, Vec::len) as u64;
                let first = engine.number(child.root, size * span)?;
                engine.record(group, Record::Expanded { first, size });
                (first, size)
            }
            (None, _) => unreachable!("only each() has members that are not known"),
        };

        let checked = fan.policy.check_size(size);
        checked.map_err(ElementsError::Unusable)?;
        let mut machine = Barrier::new(size, fan.policy);
        let mut resumed = resumes.then(HashMap::new);
        let mut reached = None;
        if let Some(resumed) = &mut resumed {
            for summary in reader.summaries(group) {
                let record = match summary? {
                    RecordSummary::Done(index) => {
                        machine.restore_arrival(index);
                        resumed.remove(&index);
                        continue;
                    }
                    RecordSummary::Started(range) => {
                        let started = || ChildProgress::Started(AttemptHistory::first());
                        let members = range.filter(|index| !is_run(*index));
                        resumed.extend(members.map(|index| (index, started())));
                        continue;
                    }
                    RecordSummary::Record(record) => record,
                };
                machine.replay(&record);
                match record {
                    Record::Child {
                        index,
                        change: ChildProgress::Done(_),
                    } => {
                        resumed.remove(&index);
                    }
                    // The fold resumes its runs itself.
                    Record::Child { index, .. } if is_run(index) => {}
                    Record::Child { index, change } => {
                        resumed.insert(index, change);
                    }
                    Record::Reached { at_ms } => reached = Some(at_ms),
                    _ => {}
                }
            }
        }
        let since_ms = reached
            .or(child.since_ms)
            .unwrap_or_else(|| engine.steady_ms());
        if reached.is_none() && size > engine.window() {
            engine.record(group, Record::Reached { at_ms: since_ms });
        }
        let taken = machine.taken();
        let exit_guard = ExitGuard::new(child.root, BARRIER, supervisor.clone());
        // A fold is told of each outcome.
        let follower = matches!(child.node.def, Def::Fold { .. }).then(|| supervisor.clone());
        let barrier =
            BarrierActor::start(engine.clone(), group, machine, owner, follower, exit_guard);
        let fan_out = Self {
            members: MemberTable::new(group, fan, (first, size), elements, child.input.clone()),
            barrier,
            since_ms,
            resumed,
        };
        Ok((fan_out, taken))
    }

    /// Returns how many members may be materialised at first: at least those that had started before a
    /// restart.
    pub(crate) fn window(&self, engine: &EngineContext) -> u64 {
        let begun = self.resumed.as_ref().map_or(0, HashMap::len) as u64;
        engine.window().max(begun)
    }

    /// Returns how far a child had got before a restart.
    pub(crate) fn resume(&mut self, index: Index) -> Resume {
        match &mut self.resumed {
            Some(resumed) => Resume::Stored(resumed.remove(&index)),
            None => Resume::Fresh,
        }
    }

    /// Reports to the barrier that member `index` has failed.
    pub(crate) fn abandon(
        &mut self,
        engine: &EngineContext,
        index: Index,
    ) -> Result<(), StoreError> {
        let root = self.members.group().root();
        let node = self.members.node(engine.reader(), index)?;
        self.barrier.send(ChildEvent::Ended(ChildEnded {
            root,
            index,
            report: abandoned_report(engine, root, &node),
        }));
        Ok(())
    }

    /// Stops the barrier: the group is revoked, and members that have not started never report.
    pub(crate) fn close(&self) {
        self.barrier.close();
    }

    pub(crate) fn members(&self) -> &MemberTable {
        &self.members
    }

    pub(crate) fn members_mut(&mut self) -> &mut MemberTable {
        &mut self.members
    }

    /// Returns the queue of the barrier.
    pub(crate) fn barrier(&self) -> &EventQueue {
        &self.barrier
    }

    /// Returns when the group or header was reached, in milliseconds on the steady scale.
    pub(crate) fn since_ms(&self) -> u64 {
        self.since_ms
    }
}
