//! The chord: a group, then the body with its list, once.

use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::group::{Group, MAX_RESTARTS};
use super::{BODY, Decision, Index, IndexSet, Report, Verdict};

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
    /// Returns the chord of which these members need no materialising. If it has a verdict on record,
    /// the barrier sends that again, which starts the body.
    pub(crate) fn recover(arrived: IndexSet, window: u64) -> (Self, Vec<Effect>) {
        let (group, effects) = Group::recover(arrived, window);
        (Self::Header(group), effects)
    }

    /// Handles what the group of the header asks for: its end with a verdict starts the body, or is
    /// the chord's.
    fn of_header(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let is_end = |effect: &mut Effect| matches!(effect, Effect::Finish(finish) if matches!(**finish, Finish::AsBarrier(_)));
        if let Some(Effect::Finish(finish)) = effects.pop_if(is_end)
            && let Finish::AsBarrier(verdict) = *finish
        {
            effects.push(match verdict {
                Verdict::Released => {
                    *self = Self::Body { restarts: 0 };
                    Effect::Start(ChildStart::Body)
                }
                Verdict::Broken { failure, .. } => {
                    *self = Self::Ended;
                    Effect::finish(Finish::BrokenHeader(failure))
                }
            });
        }
        effects
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
            Self::Header(group) if index != BODY => {
                let effects = group.child_exited(index, lost);
                self.of_header(effects)
            }
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

    fn decided(&mut self, decision: Decision) -> Vec<Effect> {
        let Self::Header(group) = self else {
            return Vec::new();
        };
        let effects = group.decided(decision);
        self.of_header(effects)
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
