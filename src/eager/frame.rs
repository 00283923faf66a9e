//! Frames: one for each running node. They are kept in a list, so that neither nesting nor a task
//! that is replaced again and again uses up the caller's stack.

use std::sync::Arc;

use super::run::Run;
use super::step::{Call, Step};
use super::supervisor::{FanOut, SupervisorFrame};
use super::task::TaskFrame;
use crate::canvas::freeze::Def;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::task::AttemptOutcome;
use crate::canvas::machine::{Index, Report};
use crate::canvas::outcome::FailureKind;
use crate::error::Result;
use crate::persistence::StoreError;
use crate::persistence::records::children;
use crate::persistence::records::commit_builder::CommitBuilder;
use crate::persistence::records::reader::ElementsError;

/// Runs a node to its end and returns its report.
pub(crate) async fn run_to_end(run: &Arc<Run>, spec: ChildSpec) -> Result<Report> {
    let mut stack = Stack::default();
    let mut next = Next::Step(Step::Start(spec));
    // Calls nest here, so `go_on` does everything that needs much of the caller's stack.
    loop {
        match stack.go_on(run, next)? {
            Halt::Call(call) => {
                run.check_open()?;
                let (attempt, outcome) = call.await;
                next = Next::Called(attempt, outcome);
                run.check_open()?;
            }
            Halt::End(report) => return Ok(*report),
        }
    }
}

/// The event with which a stack continues.
enum Next {
    Step(Step),
    /// The attempt of the task on top has ended.
    Called(u32, AttemptOutcome),
}

/// The point at which a stack cannot continue by itself.
enum Halt {
    Call(Call),
    End(Box<Report>),
}

/// The running frame, and below it the frames that wait for it.
#[derive(Default)]
struct Stack(Vec<Frame>);

impl Stack {
    fn go_on(&mut self, run: &Arc<Run>, next: Next) -> Result<Halt, StoreError> {
        let mut commit = CommitBuilder::default();
        let mut step = match (next, self.0.last_mut()) {
            (Next::Step(step), _) => step,
            (Next::Called(attempt, end), Some(Frame::Task(task))) => {
                task.called(attempt, end, &mut commit)
            }
            _ => unreachable!("only a task has its function called"),
        };
        loop {
            // The decisions of a step are written before the next step reads them.
            run.commit(std::mem::take(&mut commit))?;
            step = match step {
                Step::Call(call) => return Ok(Halt::Call(call)),
                Step::Start(spec) => {
                    let (frame, step) = Frame::open(run, spec, &mut commit)?;
                    self.0.push(frame);
                    step
                }
                Step::Ended(report) => {
                    let ended = self.0.pop().map(|frame| frame.spec().index);
                    match (ended, self.0.last_mut()) {
                        (Some(index), Some(waits)) => {
                            waits.ended(run, index, report, &mut commit)?
                        }
                        _ => return Ok(Halt::End(Box::new(report))),
                    }
                }
            };
        }
    }
}

/// One running node.
#[derive(Debug)]
enum Frame {
    Task(TaskFrame),
    Supervisor(Box<SupervisorFrame>),
    /// A group whose members cannot be known ends where it began.
    Stillborn(ChildSpec),
}

impl Frame {
    fn open(
        run: &Arc<Run>,
        spec: ChildSpec,
        commit: &mut CommitBuilder,
    ) -> Result<(Self, Step), StoreError> {
        if let Def::Task(_) = &spec.node.def {
            let (task, step) = TaskFrame::open(run.clone(), spec, commit);
            return Ok((Self::Task(task), step));
        }
        let mut fan_out = None;
        if let Some(header) = spec.node.def.header().cloned() {
            let errbacks = header.own_errbacks().to_vec();
            fan_out = match FanOut::open(run, &spec, header, commit) {
                Ok(fan_out) => Some(fan_out),
                Err(ElementsError::Store(error)) => return Err(error),
                Err(ElementsError::Unusable(what)) => {
                    let failure = spec.failure(FailureKind::Type, &what);
                    let report = Report::calling_for(&errbacks, failure);
                    let report = children::with_body(&spec, run.reader(), report)?;
                    let step = Step::Ended(spec.final_report(report, false));
                    return Ok((Self::Stillborn(spec), step));
                }
            };
        }
        let (supervisor, step) = SupervisorFrame::open(run, spec, fan_out, commit)?;
        Ok((Self::Supervisor(Box::new(supervisor)), step))
    }

    fn spec(&self) -> &ChildSpec {
        match self {
            Self::Task(task) => task.spec(),
            Self::Supervisor(supervisor) => supervisor.spec(),
            Self::Stillborn(spec) => spec,
        }
    }

    /// Handles the end of child `index`.
    fn ended(
        &mut self,
        run: &Run,
        index: Index,
        report: Report,
        commit: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        match self {
            Self::Task(task) => Ok(task.child_ended(index, report, commit)),
            Self::Supervisor(supervisor) => supervisor.child_ended(run, index, report, commit),
            Self::Stillborn(_) => unreachable!("it has no children"),
        }
    }
}
