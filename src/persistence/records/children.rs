//! What a supervisor starts and what it reports, as far as that stands in the store: the members of a group,
//! and the errbacks of nodes that never start.

use super::member_table::MemberTable;
use super::reader::Reader;
use crate::canvas::freeze::Def;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::effect::{ChildStart, Finish};
use crate::canvas::machine::{Report, group};
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::persistence::StoreError;

/// Returns the child that this supervisor starts. Only a chain has no members.
pub(crate) fn child(
    supervisor: &ChildSpec,
    members: Option<&mut MemberTable>,
    reader: &Reader,
    child: ChildStart,
) -> Result<ChildSpec, StoreError> {
    Ok(match (child, members) {
        (ChildStart::Step(index, input), _) => supervisor.step(index, input),
        (ChildStart::Run(run, _), _) => supervisor.fold_run(*run),
        (ChildStart::Member(index), Some(members)) => members.member(reader, index)?,
        (ChildStart::Body, Some(members)) => supervisor.body(members.list()),
        (ChildStart::Member(_) | ChildStart::Body, None) => {
            unreachable!("a chain has steps only")
        }
    })
}

/// Returns the report of a supervisor that ends so, and whether it is that of its last child; nothing if
/// the supervisor is revoked.
pub(crate) fn final_report(
    supervisor: &ChildSpec,
    members: Option<&MemberTable>,
    reader: &Reader,
    finish: Finish,
) -> Result<Option<(Report, bool)>, StoreError> {
    let (report, of_last) = match finish {
        Finish::AsLastChild(report) => (report, true),
        Finish::AsStep(index, mut report) => {
            let of_last = reader.fail_next(supervisor, index, &mut report)?;
            (report, of_last)
        }
        Finish::AsBarrier(verdict) => {
            let members = members.expect("a group has members");
            let (is_followed, list) = (members.is_followed(), members.list());
            let outcome = group::outcome(supervisor.id(), is_followed, verdict, list);
            (outcome.into(), false)
        }
        Finish::BrokenHeader(failure) => {
            let failure = TaskFailure::chord(supervisor.id(), failure);
            let report = Report::from(Outcome::Failure(failure));
            (with_body(supervisor, reader, report)?, false)
        }
        Finish::With(outcome) => (outcome.into(), false),
        Finish::WithAccumulator => unreachable!("the machine has replaced it by its value"),
        Finish::Revoked => return Ok(None),
    };
    Ok(Some((report, of_last)))
}

/// Returns the report of a supervisor whose header has failed: if it is a chord, the body fails with it,
/// unstarted.
pub(crate) fn with_body(
    supervisor: &ChildSpec,
    reader: &Reader,
    mut report: Report,
) -> Result<Report, StoreError> {
    if let Def::Chord { .. } = &supervisor.node.def {
        reader.fail_body(supervisor, &mut report)?;
    }
    Ok(report)
}
