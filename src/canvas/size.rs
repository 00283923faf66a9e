//! How large and how deep a canvas is, and the limits of both.

use super::depth::{MAX_DEPTH, too_deep};
use super::form::{Canvas, Extras, Form};

/// The maximum number of nodes in callbacks. An errback of a group is copied to each member, so
/// groups in errbacks of groups multiply, and a few kilobytes of JSON would fill any memory.
pub(crate) const MAX_CALLBACKS: u64 = 1 << 20;

pub(crate) fn too_many_callbacks() -> String {
    format!("its callbacks, copied to every member of their groups, are more than {MAX_CALLBACKS}")
}

impl Extras {
    /// Returns the number of canvases in its callbacks, nested ones included.
    pub(crate) fn callbacks(&self) -> u64 {
        self.link
            .iter()
            .chain(&self.link_error)
            .map(Canvas::count)
            .sum()
    }
}

impl Canvas {
    /// Returns the number of canvases in it, including itself and its callbacks.
    pub(crate) fn count(&self) -> u64 {
        let all = |canvases: &[Self]| canvases.iter().map(Self::count).sum::<u64>();
        let inside = match &self.form {
            Form::Task(_) | Form::Refused(_) => 0,
            Form::Chain(steps, _) => all(steps),
            Form::Group { members, .. } => all(members.list()),
            Form::Each { member, .. } => member.count(),
            Form::Chord { header, body } => header.count() + body.count(),
            Form::Fold(fold) => fold.header.count() + 1,
        };
        1 + inside + self.extras.as_ref().map_or(0, |extras| extras.callbacks())
    }

    /// Returns the number of known levels, callbacks included. A single task has one.
    pub(crate) fn depth(&self) -> usize {
        let form = match &self.form {
            Form::Task(_) | Form::Refused(_) => 1,
            Form::Chain(_, depth) => 1 + depth,
            Form::Group { members, .. } => 1 + members.depth(),
            Form::Each { member, .. } => 1 + member.depth(),
            // The header is a part of the chord, not a level of its own.
            Form::Chord { header, body } => header.depth().max(1 + body.depth()),
            Form::Fold(fold) => fold.header.depth().max(2),
        };
        let callbacks = self.extras.as_ref().map_or(0, |extras| 1 + extras.depth);
        form.max(callbacks)
    }

    /// Creates a canvas that contains others, unless it is too deep.
    pub(crate) fn nested(form: Form) -> Self {
        Self::from_form(form).bounded()
    }

    /// Refuses a canvas that is deeper than freezing allows, because dropping a canvas is recursive
    /// as well.
    pub(crate) fn bounded(self) -> Self {
        if self.depth() > MAX_DEPTH {
            return Self::refused(too_deep());
        }
        self
    }

    /// Returns whether it contains at most `most` canvases, callbacks included. A group whose
    /// promised size fits is drawn; any other group is not.
    pub(crate) fn has_at_most(&self, most: usize) -> bool {
        self.fits(MAX_DEPTH, &mut { most })
    }

    pub(crate) fn fits(&self, depth: usize, left: &mut usize) -> bool {
        // A canvas that is too deep is refused later.
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let mut all = |canvases: &[Self]| canvases.iter().all(|canvas| canvas.fits(depth, left));
        let callbacks = self
            .extras
            .as_ref()
            .is_none_or(|extras| all(&extras.link) && all(&extras.link_error));
        callbacks
            && match &self.form {
                Form::Task(_) | Form::Refused(_) => true,
                Form::Chain(steps, _) => all(steps),
                Form::Group { members, .. } => {
                    members.at_most().is_some_and(|most| most <= *left)
                        && members.list().iter().all(|member| member.fits(depth, left))
                }
                Form::Each { member, .. } => member.fits(depth, left),
                Form::Chord { header, body } => header.fits(depth, left) && body.fits(depth, left),
                Form::Fold(fold) => fold.header.fits(depth, left),
            }
    }

    /// Returns whether it has more levels than `depth`. Draws all of its groups.
    pub(crate) fn is_deeper_than(&self, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        let deeper = |canvas: &Self| canvas.is_deeper_than(depth);
        let form = match &self.form {
            Form::Task(_) | Form::Refused(_) => false,
            Form::Chain(steps, _) => steps.iter().any(deeper),
            Form::Group { members, .. } => members.list().iter().any(deeper),
            Form::Each { member, .. } => deeper(member),
            // The header is a part of the chord, not a level of its own.
            Form::Chord { header, body } => header.is_deeper_than(depth + 1) || deeper(body),
            Form::Fold(fold) => fold.header.is_deeper_than(depth + 1) || depth == 0,
        };
        form || self
            .extras
            .as_ref()
            .is_some_and(|extras| extras.link.iter().chain(&extras.link_error).any(deeper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_counted_once() {
        let leaf = || Canvas::task("t", ());
        let group = || Canvas::group([leaf(), leaf() | leaf()]);
        for (canvas, depth) in [
            (leaf(), 1),
            (Canvas::chain([]), 1),
            (leaf() | leaf() | leaf(), 2),
            (group(), 3),
            (group() | leaf(), 3),
            (group() | group(), 4),
            (group() | group() | leaf(), 5),
            (leaf() | group(), 4),
            (leaf() | group() | leaf(), 4),
            (leaf().link(group()), 4),
            (leaf().link(group()).link_error(leaf()), 4),
            (Canvas::group([leaf()]).link_error(group() | group()), 5),
            ((leaf() | leaf()).queue("q") | leaf(), 3),
            (Canvas::refused("no".into()), 1),
        ] {
            assert_eq!(canvas.depth(), depth, "{canvas:?}");
        }
    }
}
