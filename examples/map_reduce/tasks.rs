//! The three tasks, and the canvas that they make up.

use chordal::prelude::*;

use crate::ledger;
use crate::plan::{self, Chunk};
use crate::table::{Answer, Table};

#[task(name = "map_reduce.map", blocking)]
fn map(ctx: &TaskContext, chunk: Chunk) -> Result<Table, TaskError> {
    ledger::kept("map", ctx, || match chunk.read() {
        Ok(text) => Ok(Table::count(&text)),
        Err(error) => Err(TaskError::new(format!("{error:#}"))),
    })
}

// What is merged early is out of the way early: before the maps that wait.
#[task(name = "map_reduce.merge", blocking, priority = 5)]
fn merge(ctx: &TaskContext, tables: Vec<Table>) -> Result<Table, TaskError> {
    ledger::kept("merge", ctx, || Ok(Table::merge(&tables)?))
}

#[task(name = "map_reduce.answer", blocking, priority = 5)]
fn answer(ctx: &TaskContext, tables: Vec<Table>, top: usize) -> Result<Answer, TaskError> {
    ledger::kept("answer", ctx, || Ok(Answer::of(&tables, top)?))
}

/// All tasks, for the app.
pub(crate) fn all() -> [chordal::TaskEntry; 3] {
    tasks![map, merge, answer]
}

/// Counts the chunks: a chord, and chords within its header where one body would have too much
/// to load.
pub(crate) fn canvas(chunks: Vec<Chunk>, top: usize) -> Signature<(), Answer> {
    let widths = plan::merges(chunks.len());
    let maps: Vec<Signature<(), Table>> = chunks.into_iter().map(|chunk| map.s(chunk)).collect();
    let level = widths.into_iter().fold(maps, merged);
    chord(group(level), answer.partial(top))
}

fn merged(level: Vec<Signature<(), Table>>, width: usize) -> Vec<Signature<(), Table>> {
    let mut members = level.into_iter().peekable();
    let mut chords = Vec::new();
    while members.peek().is_some() {
        let header: Vec<_> = members.by_ref().take(width).collect();
        chords.push(chord(group(header), merge.partial()));
    }
    chords
}
