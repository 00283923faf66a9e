//! The shelf: where a table is kept that is too large for a task's value.
//!
//! A value goes through memory, log and store as a whole, so there is a limit on it. What may be
//! larger is better kept elsewhere, and the value says where: here in files beside the store, each
//! written once by the task whose id is its name, and durable before the task has its value.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chordal::{Id, TaskContext};
use serde::{Deserialize, Serialize};

use crate::table::{Answer, Table};

/// What is not larger is a value of its own.
const SMALL: usize = 128 << 10;
/// How much of a file is in memory while it is read or written.
const BUFFER: usize = 64 << 10;

/// Set once, before the app starts; tasks have no other way to be told.
static SHELF: OnceLock<PathBuf> = OnceLock::new();

/// Bytes that a task has made, as its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Shelved {
    Here(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The name of a file.
    File(String),
}

/// Keeps what is large in this directory.
pub(crate) fn open(directory: PathBuf) {
    let _ = SHELF.set(directory);
}

fn shelf() -> io::Result<&'static Path> {
    let shelf = SHELF.get().map(PathBuf::as_path);
    shelf.ok_or_else(|| io::Error::other("there is no directory for large tables"))
}

/// Makes the directory, durably.
fn make(shelf: &Path) -> io::Result<()> {
    fs::create_dir_all(shelf)?;
    match shelf.parent() {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}

/// Keeps what `write` writes.
pub(crate) fn keep(
    context: &TaskContext,
    write: impl FnOnce(&mut Keeper) -> io::Result<()>,
) -> io::Result<Shelved> {
    let mut keeper = Keeper {
        name: context.id().to_string(),
        bytes: Vec::new(),
        file: None,
    };
    write(&mut keeper)?;
    keeper.finish()
}

/// Takes bytes, in memory as long as they are few.
pub(crate) struct Keeper {
    name: String,
    bytes: Vec<u8>,
    file: Option<BufWriter<File>>,
}

impl Keeper {
    fn part(&self) -> io::Result<PathBuf> {
        Ok(shelf()?.join(format!("{}.part", self.name)))
    }

    fn finish(mut self) -> io::Result<Shelved> {
        let Some(file) = self.file.take() else {
            return Ok(Shelved::Here(self.bytes));
        };
        // The value must not be durable before what it names.
        file.into_inner()?.sync_all()?;
        fs::rename(self.part()?, shelf()?.join(&self.name))?;
        File::open(shelf()?)?.sync_all()?;
        Ok(Shelved::File(self.name))
    }
}

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.bytes.len() + bytes.len() > SMALL {
            make(shelf()?)?;
            let mut file = BufWriter::with_capacity(BUFFER, File::create(self.part()?)?);
            file.write_all(&std::mem::take(&mut self.bytes))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.bytes.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Shelved {
    pub(crate) fn read(&self) -> io::Result<Table<'_>> {
        Ok(match self {
            Self::Here(bytes) => Box::new(&bytes[..]),
            Self::File(name) => {
                let path = shelf()?.join(name);
                let file = File::open(&path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
                Box::new(BufReader::with_capacity(BUFFER, file))
            }
        })
    }

    /// Reads what a task has kept as JSON.
    pub(crate) fn answer(&self) -> io::Result<Answer> {
        Ok(serde_json::from_reader(self.read()?)?)
    }
}

/// Removes all files of a run but the one that this value names.
pub(crate) fn clear(run: Id, but: Option<&Shelved>) -> io::Result<()> {
    let kept = match but {
        Some(Shelved::File(name)) => Some(name.as_str()),
        Some(Shelved::Here(_)) | None => None,
    };
    for (name, of) in files()? {
        if of == run && Some(name.as_str()) != kept {
            fs::remove_file(shelf()?.join(name))?;
        }
    }
    Ok(())
}

/// The runs that have files.
pub(crate) fn runs() -> io::Result<Vec<Id>> {
    let mut runs: Vec<Id> = files()?.into_iter().map(|(_, run)| run).collect();
    runs.sort();
    runs.dedup();
    Ok(runs)
}

/// All files, each with the run that it is of.
fn files() -> io::Result<Vec<(String, Id)>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(shelf()?) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Ok(task) = name.trim_end_matches(".part").parse::<Id>() {
            files.push((name.to_owned(), task.root()));
        }
    }
    Ok(files)
}
