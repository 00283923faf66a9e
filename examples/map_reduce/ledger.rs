//! `--ledger FILE`: an account of what ran, outside the store, for the crash test.
//!
//! ```text
//! begin map <task id> <attempt> <pid> <parent id>      when a call starts (or merge, or answer)
//! end map <task id> <attempt> <pid> <parent id>        when it has its value
//! acked <task id>                                      the library has said that it is durable
//! ```
//!
//! Each is filled up with blanks to 128 bytes. A chord is acknowledged by its own id, which is its
//! body's parent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use chordal::{Id, TaskContext};

/// Set once, before the app starts; tasks have no other way to be told.
static LEDGER: OnceLock<File> = OnceLock::new();

/// Starts to write to `path`, behind what is there.
pub(crate) fn open(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let _ = LEDGER.set(file);
    Ok(())
}

pub(crate) fn is_open() -> bool {
    LEDGER.get().is_some()
}

/// Runs `call` between its two lines.
pub(crate) fn kept<T, E: From<io::Error>>(
    what: &str,
    context: &TaskContext,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let write = |event: &str| match LEDGER.get() {
        None => Ok(()),
        Some(_) => line(&format!(
            "{event} {what} {} {} {} {}",
            context.id(),
            context.attempt(),
            std::process::id(),
            context.parent_id().unwrap_or(context.id()),
        )),
    };
    write("begin")?;
    let value = call()?;
    write("end")?;
    Ok(value)
}

pub(crate) fn acked(id: Id) -> io::Result<()> {
    line(&format!("acked {id}"))
}

/// One write, so that lines of several threads do not mix; and each as long as the others, so that
/// none lies in two pages: a kill can end a write between two. What is written a kill does not take back.
fn line(text: &str) -> io::Result<()> {
    let Some(mut ledger) = LEDGER.get() else {
        return Ok(());
    };
    ledger.write_all(format!("{text:<127}\n").as_bytes())
}
