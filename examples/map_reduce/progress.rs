//! How far a run has got, seen through the library's handles.

use std::time::Duration;

use chordal::{App, AsyncResult, Id};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::shelf::Shelved;
use crate::{ledger, plan};

/// How often the bar is moved.
const BAR: Duration = Duration::from_millis(200);
/// How often the crash test's ledger is told what is durable.
const LEDGER: Duration = Duration::from_millis(2);

pub(crate) struct Progress {
    /// The chords that the map tasks are in, as long as some of these have not ended.
    unfinished: Vec<AsyncResult<Shelved>>,
    /// Chunks in chords that have.
    finished: u64,
    /// Map tasks and inner chords that the ledger does not have yet.
    unacked: Vec<AsyncResult<Shelved>>,
    bar: ProgressBar,
}

impl Progress {
    /// Finds the chords of a run of `chunks` chunks.
    pub(crate) async fn of(app: &App, run: Id, chunks: usize) -> chordal::Result<Self> {
        let mut level = vec![app.async_result::<Shelved>(run).await?];
        let mut unacked = Vec::new();
        for _ in plan::merges(chunks) {
            let mut below = Vec::new();
            for chord in &level {
                below.extend(chord.children().await?);
            }
            unacked.extend(below.iter().filter(|_| ledger::is_open()).cloned());
            level = below;
        }
        if ledger::is_open() {
            for chord in &level {
                unacked.extend(chord.children().await?);
            }
        }
        let bar = ProgressBar::with_draw_target(
            Some(chunks as u64),
            ProgressDrawTarget::stderr_with_hz(10),
        );
        let style = "{bar:40} {human_pos} of {human_len} chunks, {elapsed}, {eta} to go";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        Ok(Self {
            unfinished: level,
            finished: 0,
            unacked,
            bar,
        })
    }

    /// How many chunks have been counted.
    pub(crate) async fn done(&mut self) -> chordal::Result<u64> {
        let (mut under_way, mut at) = (0, 0);
        // (The future may be dropped at each wait.)
        while let Some(chord) = self.unfinished.get(at) {
            let done = chord.completed_count().await?;
            if chord.ready().await? {
                self.finished += done;
                drop(self.unfinished.remove(at));
            } else {
                under_way += done;
                at += 1;
            }
        }
        Ok(self.finished + under_way)
    }

    /// Moves the bar and tells the ledger, until it is dropped.
    pub(crate) async fn show(&mut self) -> anyhow::Result<std::convert::Infallible> {
        loop {
            if ledger::is_open() {
                self.tell_ledger().await?;
                tokio::time::sleep(LEDGER).await;
            } else if self.bar.is_hidden() {
                std::future::pending::<()>().await;
            } else {
                let done = self.done().await?;
                self.bar.set_position(done);
                tokio::time::sleep(BAR).await;
            }
        }
    }

    /// Removes the bar.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        self.tell_ledger().await
    }

    /// The future may be dropped at each wait, so nothing is taken out before the ledger has it.
    async fn tell_ledger(&mut self) -> anyhow::Result<()> {
        let mut at = 0;
        while let Some(task) = self.unacked.get(at) {
            if task.successful().await? {
                ledger::acked(task.id())?;
                drop(self.unacked.remove(at));
            } else {
                at += 1;
            }
        }
        Ok(())
    }
}
