//! The chord: a group, then the body with its list, once.

use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::group::{Group, MAX_RESTARTS};
use super::{BODY, Index, IndexSet, Report, Verdict};

#[derive(Debug)]
pub(crate) enum Chord {
    /// The header's members are running.
    Header(Group),
    /// The body runs; its actor was lost `restarts` times.
    Body {
        restarts: u32,
    },
    Ended,
}

impl Chord {
    /// Returns the chord of which these members have arrived. If all have, the barrier sends its
    /// stored verdict again, which starts the body.
    pub(crate) fn recover(arrived: IndexSet, window: u64) -> (Self, Vec<Effect>) {
        let (group, effects) = Group::recover(arrived, window);
        (Self::Header(group), effects)
    }
}

impl Supervise for Chord {
    fn resize(&mut self, window: u64) {
        if let Self::Header(group) = self {
            group.resize(window);
        }
    }

    fn child_exited(&mut self, index: Index, lost: bool) -> Vec<Effect> {
        match self {
            Self::Header(group) if index != BODY => group.child_exited(index, lost),
            Self::Body { restarts } if index == BODY && lost => {
                *restarts += 1;
                match *restarts <= MAX_RESTARTS {
                    true => vec![Effect::Restart(BODY)],
                    false => vec![Effect::Abandon(BODY)],
                }
            }
            _ => Vec::new(),
        }
    }

    /// Revokes the header; a body that runs finds out by itself.
    fn revoked(&mut self) -> Vec<Effect> {
        match self {
            Self::Header(group) => group.revoked(),
            Self::Body { .. } | Self::Ended => Vec::new(),
        }
    }

    fn decided(&mut self, verdict: Verdict) -> Vec<Effect> {
        let Self::Header(group) = self else {
            return Vec::new();
        };
        if group.is_revoked() {
            return group.decided(verdict);
        }
        match verdict {
            Verdict::Released => {
                *self = Self::Body { restarts: 0 };
                vec![Effect::Start(ChildStart::Body)]
            }
            Verdict::Broken { failure, .. } => {
                *self = Self::Ended;
                vec![Effect::finish(Finish::BrokenHeader(failure))]
            }
        }
    }

    fn child_ended(&mut self, index: Index, report: Report) -> Vec<Effect> {
        if index != BODY || !matches!(self, Self::Body { .. }) {
            return Vec::new();
        }
        *self = Self::Ended;
        vec![Effect::finish(Finish::AsLastChild(report))]
    }

    fn running_child(&self, index: Index) -> Option<ChildStart> {
        Some(match index {
            BODY => ChildStart::Body,
            member => ChildStart::Member(member),
        })
    }
}
