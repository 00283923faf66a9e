//! Errbacks that Celery writes more than once for one chord.

use std::collections::HashSet;

use super::write;
use crate::canvas::form::{Canvas, Form};

/// Removes from the chords in a chord's header the errbacks that the chord itself has.
///
/// `chord.link_error` links an errback to the body, and once more to each chord in the header
/// (celery/canvas.py, `_chord.link_error`), because in Celery the failure of a header's chord never
/// reaches the chord around it. Here it does, and then the errback runs once.
pub(super) fn keep_outermost(chord: &mut Canvas) {
    let mut own = HashSet::new();
    match &chord.form {
        Form::Chord { header, .. } if chords(header).next().is_some() => collect(chord, &mut own),
        _ => return,
    }
    if let Form::Chord { header, .. } = &mut chord.form
        && let Form::Group { members, .. } = &mut header.form
        && !own.is_empty()
    {
        let members = members.list_mut().iter_mut();
        members
            .filter(|member| is_chord(member))
            .for_each(|chord| remove(chord, &own));
    }
}

fn chords(header: &Canvas) -> impl Iterator<Item = &Canvas> {
    let members = match &header.form {
        Form::Group { members, .. } => members.list(),
        _ => &[],
    };
    members.iter().filter(|member| is_chord(member))
}

fn is_chord(canvas: &Canvas) -> bool {
    matches!(canvas.form, Form::Chord { .. })
}

/// Collects the errbacks, in written form, that run when `canvas` fails before it has started, as
/// the body of a chord does when the header fails.
fn collect(canvas: &Canvas, errbacks: &mut HashSet<String>) {
    if let Some(extras) = &canvas.extras {
        errbacks.extend(extras.link_error.iter().filter_map(text));
    }
    match &canvas.form {
        Form::Chain(steps, _) => steps
            .iter()
            .take(1)
            .for_each(|step| collect(step, errbacks)),
        Form::Group { members, .. } => {
            let members = members.list().iter();
            members.for_each(|member| collect(member, errbacks));
        }
        Form::Chord { body, .. } => collect(body, errbacks),
        Form::Task(_) | Form::Each { .. } | Form::Fold(_) | Form::Refused(_) => {}
    }
}

/// Removes the errbacks in `known` from every part of `canvas` whose failure makes `canvas` fail.
fn remove(canvas: &mut Canvas, known: &HashSet<String>) {
    if let Some(extras) = &mut canvas.extras {
        let is_new = |errback: &Canvas| text(errback).is_none_or(|text| !known.contains(&text));
        extras.link_error.retain(is_new);
    }
    match &mut canvas.form {
        Form::Chain(steps, _) => steps.iter_mut().for_each(|step| remove(step, known)),
        Form::Group { members, .. } => {
            let members = members.list_mut().iter_mut();
            members.for_each(|member| remove(member, known));
        }
        Form::Chord { body, .. } => remove(body, known),
        Form::Task(_) | Form::Each { .. } | Form::Fold(_) | Form::Refused(_) => {}
    }
}

fn text(errback: &Canvas) -> Option<String> {
    write::write(errback)
        .ok()
        .map(|written| written.to_string())
}
