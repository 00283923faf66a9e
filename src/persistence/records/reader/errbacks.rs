//! The errbacks to call when a node fails without having started.

use super::{MemberCursor, Reader};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::{Index, Report};
use crate::persistence::StoreError;

impl Reader {
    /// Appends the errbacks that run when `node`, which never started, fails because the header
    /// before it failed: its own, those of a chain's first step, of each member of a group, of a
    /// chord's body.
    pub(crate) fn errbacks(
        &self,
        root: Id,
        node: &Node,
        out: &mut Vec<Node>,
    ) -> Result<(), StoreError> {
        let of_last = match &node.def {
            Def::Chain(steps) => self.errbacks_of_steps(root, steps, out)?,
            _ => false,
        };
        if let Some(callbacks) = &node.callbacks
            && !(of_last && callbacks.last_has_them)
        {
            out.extend_from_slice(&callbacks.link_error);
        }
        match &node.def {
            Def::Task(_) | Def::Chain(_) | Def::Fold { .. } => Ok(()),
            Def::Group(fan) if fan.followed => Ok(()),
            Def::Group(fan) => {
                let group = root.node(node.seq);
                let Some((first, size)) = self.expansion(group, fan)? else {
                    out.extend_from_slice(fan.own_errbacks());
                    return Ok(());
                };
                let mut cursor = MemberCursor::new(group, first);
                for index in 0..size {
                    self.errbacks(root, &cursor.get(self, fan, index)?, out)?;
                }
                Ok(())
            }
            Def::Chord { body, .. } => self.errbacks(root, body, out),
        }
    }

    /// Appends the errbacks of the first of these steps of a chain; if that step is a header, of
    /// its body. Returns whether that step or body is the last of the chain.
    pub(crate) fn errbacks_of_steps(
        &self,
        root: Id,
        steps: &[Node],
        out: &mut Vec<Node>,
    ) -> Result<bool, StoreError> {
        let at = steps.iter().take_while(|step| step.is_header()).count();
        if let Some(step) = steps.get(at) {
            self.errbacks(root, step, out)?;
        }
        Ok(at + 1 >= steps.len() && !steps.is_empty())
    }

    /// Adds the errbacks to call when the header of `chord` has failed: the body fails with it,
    /// unstarted.
    pub(crate) fn fail_body(
        &self,
        chord: &ChildSpec,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let Def::Chord { body, .. } = &chord.node.def else {
            unreachable!("only a chord has a body")
        };
        let mut errbacks = Vec::new();
        self.errbacks(chord.root, body, &mut errbacks)?;
        if let Some(failure) = report.outcome.failure() {
            let input = failure.as_input();
            report.call_for(&errbacks, &input);
        }
        Ok(())
    }

    /// Adds the errbacks of the next step if step `index` of `chain` failed because a group failed
    /// whose list the next step was to get: the group is a chord's header in all but form, and the
    /// next step is the body, which fails unstarted. Returns whether that step is the last.
    pub(crate) fn fail_next(
        &self,
        chain: &ChildSpec,
        index: Index,
        report: &mut Report,
    ) -> Result<bool, StoreError> {
        let (root, steps, at) = (chain.root, chain.steps(), index as usize);
        let Some(failure) = report.outcome.failure() else {
            return Ok(false);
        };
        let failed = failure.task_id;
        if failed.root() != root || !steps[at].is_followed_from(failed.seq()) {
            return Ok(false);
        }
        let input = failure.as_input();
        let mut errbacks = Vec::new();
        let last = self.errbacks_of_steps(root, &steps[at + 1..], &mut errbacks)?;
        report.call_for(&errbacks, &input);
        Ok(last)
    }
}
