//! The chord: a group, then the body with its list, once.

use super::group::{self, Group, MAX_RESTARTS};
use super::{BODY, Index, IndexSet, Report, Verdict};
use crate::canvas::outcome::TaskFailure;

#[derive(Debug)]
pub(crate) enum Chord {
    /// The header's members are running.
    Header(Group),
    /// The barrier has released the body; its actor was lost `restarts` times.
    Body {
        restarts: u32,
    },
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// What the header's group asks for; never its report. If it is revoked, the chord is.
    Header(group::Command),
    /// Start the body with the header's list.
    SpawnBody,
    /// Start the body's lost actor again, once all it recorded is durable.
    Restart,
    /// The body's actor dies each time.
    Abandon,
    /// A member failed: the chord fails, the body never runs.
    Break(Box<TaskFailure>),
    /// The body has ended, and so the chord.
    Report(Report),
}

impl Chord {
    /// The chord some of whose header members have `arrived`. If all have, the barrier tells its
    /// stored verdict again, which starts the body.
    pub(crate) fn recover(arrived: IndexSet, window: u64) -> (Self, Vec<Command>) {
        let (group, commands) = Group::recover(arrived, window);
        (
            Self::Header(group),
            commands.into_iter().map(Command::Header).collect(),
        )
    }

    /// How many members may be materialised from now on.
    pub(crate) fn resize(&mut self, window: u64) {
        if let Self::Header(group) = self {
            group.resize(window);
        }
    }

    /// A child's actor is gone; `lost`: before it had reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        match self {
            Self::Header(group) if index != BODY => group
                .stopped(index, lost)
                .into_iter()
                .map(Command::Header)
                .collect(),
            Self::Body { restarts } if index == BODY && lost => {
                *restarts += 1;
                if *restarts <= MAX_RESTARTS {
                    vec![Command::Restart]
                } else {
                    vec![Command::Abandon]
                }
            }
            _ => Vec::new(),
        }
    }

    /// The chord is revoked, or what it is a part of: the header ends, or the body does.
    pub(crate) fn revoked(&mut self) -> Vec<Command> {
        match self {
            Self::Header(group) => group.revoked().into_iter().map(Command::Header).collect(),
            Self::Body { .. } | Self::Ended => Vec::new(),
        }
    }

    /// The barrier has decided.
    pub(crate) fn decided(&mut self, verdict: Verdict) -> Vec<Command> {
        let Self::Header(group) = self else {
            return Vec::new();
        };
        if group.is_revoked() {
            let commands = group.decided(verdict);
            return commands.into_iter().map(Command::Header).collect();
        }
        match verdict {
            Verdict::Released => {
                *self = Self::Body { restarts: 0 };
                vec![Command::SpawnBody]
            }
            Verdict::Broken { failure, .. } => {
                *self = Self::Ended;
                vec![Command::Break(failure)]
            }
        }
    }

    /// The body has ended.
    pub(crate) fn body_ended(&mut self, report: Report) -> Vec<Command> {
        if !matches!(self, Self::Body { .. }) {
            return Vec::new();
        }
        *self = Self::Ended;
        vec![Command::Report(report)]
    }
}
