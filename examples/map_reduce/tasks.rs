//! The three tasks, and the canvas that they make up.

use chordal::prelude::*;

use crate::ledger;
use crate::plan::{self, Chunk};
use crate::shelf::{self, Shelved};
use crate::table::{self, Answer, Table};

#[task(name = "map_reduce.map", blocking)]
fn map(ctx: &TaskContext, chunk: Chunk) -> Result<Shelved, TaskError> {
    ledger::kept("map", ctx, || match chunk.read() {
        Ok(text) => Ok(shelf::keep(ctx, |table| table::count(&text, table))?),
        Err(error) => Err(TaskError::new(format!("{error:#}"))),
    })
}

// What is merged early is out of the way early: before the maps that wait.
#[task(name = "map_reduce.merge", blocking, priority = 5)]
fn merge(ctx: &TaskContext, tables: Vec<Shelved>) -> Result<Shelved, TaskError> {
    ledger::kept("merge", ctx, || {
        let tables = open(&tables)?;
        Ok(shelf::keep(ctx, |sum| table::merge(tables, sum))?)
    })
}

#[task(name = "map_reduce.answer", blocking, priority = 5)]
fn answer(ctx: &TaskContext, tables: Vec<Shelved>, top: usize) -> Result<Shelved, TaskError> {
    ledger::kept("answer", ctx, || {
        let found = Answer::of(open(&tables)?, top)?;
        let write = |json: &mut _| Ok(serde_json::to_writer(json, &found)?);
        Ok(shelf::keep(ctx, write)?)
    })
}

fn open(tables: &[Shelved]) -> std::io::Result<Vec<Table<'_>>> {
    tables.iter().map(Shelved::read).collect()
}

/// All tasks, for the app.
pub(crate) fn all() -> [chordal::TaskEntry; 3] {
    tasks![map, merge, answer]
}

/// Counts the chunks: a chord, and chords within its header where one body would have too much
/// to load.
pub(crate) fn canvas(chunks: Vec<Chunk>, top: usize) -> Signature<(), Shelved> {
    let widths = plan::merges(chunks.len());
    let maps: Vec<Signature<(), Shelved>> = chunks.into_iter().map(|chunk| map.s(chunk)).collect();
    let level = widths.into_iter().fold(maps, merged);
    chord(group(level), answer.partial(top))
}

fn merged(level: Vec<Signature<(), Shelved>>, width: usize) -> Vec<Signature<(), Shelved>> {
    let mut members = level.into_iter().peekable();
    let mut chords = Vec::new();
    while members.peek().is_some() {
        let header: Vec<_> = members.by_ref().take(width).collect();
        chords.push(chord(group(header), merge.partial()));
    }
    chords
}
