//! Maintenance of a store: audits, salvage, backups, export and import.

#[cfg(any(feature = "sled", feature = "redb"))]
use std::fs::File;
#[cfg(any(feature = "sled", feature = "redb"))]
use std::io::BufReader;
use std::path::PathBuf;
use std::thread;

use tokio::sync::oneshot;

use super::App;
use crate::error::{Error, Result};
use crate::persistence;
#[cfg(any(feature = "sled", feature = "redb"))]
use crate::persistence::{Audit, Engine, Salvaged};
use crate::persistence::{Store, StoreError};

impl App {
    /// Reads the whole closed store in this directory, of either engine, and reports its faults: in
    /// frames of the log, checksums, and references between records.
    ///
    /// Not one byte in the directory is changed. The changes that an engine makes when it opens a
    /// store are made to a copy, `<directory>.verify`, which takes as much space again while this
    /// runs (less if the file system shares blocks between copies). If no directory can be created
    /// beside the store, as on a read-only volume, the copy is in [`temp_dir`](std::env::temp_dir).
    /// An audit that is killed leaves its copy; the next audit removes it, and so does the next
    /// start of an app over the store. For a store of your own use
    /// [`persistence::verify`](crate::persistence::verify()).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("data");
    /// let app = App::open(&path).tasks(tasks![add]).start().await?;
    /// app.apply_async(add.s(2, 2)).await?.get().await?;
    /// app.shutdown().await?;
    ///
    /// let audit = App::verify(&path).await?;
    /// assert!(audit.is_sound(), "{:?}", audit.findings);
    /// assert_eq!(audit.ended, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if the store is open; [`StoreError::Io`] and [`StoreError::Full`] if
    /// there is none, or if it cannot be copied; [`StoreError::WrongEngine`] if the crate was built
    /// without the engine that made it; [`Error::NoThread`]. A fault of the store is no error: it
    /// is in the audit.
    #[cfg(any(feature = "sled", feature = "redb"))]
    pub async fn verify(directory: impl Into<PathBuf>) -> Result<Audit> {
        let directory = directory.into();
        on_a_thread("chordal-verify", move || {
            persistence::verify_directory(&directory)
        })
        .await
    }

    /// Copies everything that can still be read of the closed, damaged store in `from` into a new
    /// store in `to`, and returns what is missing. The store in `from` is read and not changed, and
    /// need not be openable; `to` must be empty or absent.
    ///
    /// The new store is of the same engine. For sled all whole commits of the log and all whole
    /// pages of sled's file are read, without sled. For redb everything that redb can open is read.
    /// Workflows with missing parts are left out, and their ids are returned: the new store can be
    /// opened, and [`verify`](Self::verify) finds no fault in it. An unfinished workflow may be in
    /// an older state than before: read [`Salvaged`] before you open the new store.
    ///
    /// The new store is built in `<to>.part`, which is renamed at the end.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (path, new) = (dir.path().join("data"), dir.path().join("new"));
    /// let app = App::open(&path).tasks(tasks![add]).start().await?;
    /// let id = app.apply_async(add.s(2, 2)).await?.id();
    /// app.shutdown().await?;
    ///
    /// let salvaged = App::salvage(&path, &new).await?;
    /// assert!(salvaged.is_complete(), "{:?}", salvaged.findings);
    ///
    /// let app = App::open(&new).tasks(tasks![add]).start().await?;
    /// assert_eq!(app.async_result::<i64>(id).await?.get().await?, 4);
    /// # app.shutdown().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if the store is open; [`StoreError::UnsupportedVersion`] if a later
    /// version wrote it; [`StoreError::Io`] if there is none, if `to` is not empty or lies in
    /// `from`, or if one cannot be read or the other cannot be written; [`StoreError::Full`]; for
    /// redb also [`StoreError::Corrupt`] if redb cannot open its file at all. Other damage is no
    /// error: it is in the answer.
    #[cfg(any(feature = "sled", feature = "redb"))]
    pub async fn salvage(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Result<Salvaged> {
        let (from, to) = (from.into(), to.into());
        on_a_thread("chordal-salvage", move || persistence::salvage(&from, &to)).await
    }

    /// Copies the store to a directory that does not exist yet, while work continues. The copy
    /// holds everything that was acknowledged before the call, and is a store like any other.
    ///
    /// The copy is built in `<directory>.part`, which is renamed at the end, so an interrupted
    /// backup leaves none. Meanwhile the log is not moved on into sled, so memory grows with each
    /// commit; at eight times the usual amount, commits wait. With redb commits never wait; its
    /// file grows by what they replace meanwhile, and the copy has a store id of its own. A store
    /// is closed only when its backups are done.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (path, copy) = (dir.path().join("data"), dir.path().join("copy"));
    /// let app = App::open(path).tasks(tasks![add]).start().await?;
    /// let id = app.apply_async(add.s(2, 2)).await?.id();
    /// app.backup(&copy).await?;
    ///
    /// let other = App::open(copy).tasks(tasks![add]).start().await?;
    /// assert_eq!(other.async_result::<i64>(id).await?.get().await?, 4);
    /// # other.shutdown().await?;
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if the store has stopped, if the directory already exists or cannot be
    /// written, or if the store does not support backups; [`Error::NoThread`], [`Error::ShutDown`]
    /// or [`Error::Halted`].
    pub async fn backup(&self, directory: impl Into<PathBuf>) -> Result<()> {
        let store = self.0.backend.view().reader()?.store().clone();
        let directory = directory.into();
        on_a_thread("chordal-backup", move || store.backup(&directory)).await
    }

    /// Writes the whole store to a new file, as lines of JSON, to be [imported](App::import) into a
    /// store of any kind: see [`persistence::export`]. Returns the number of records.
    ///
    /// Commits wait until it is done, so export a [backup](App::backup) of a large store instead.
    ///
    /// ```
    /// use chordal::persistence::Engine;
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (path, file) = (dir.path().join("data"), dir.path().join("store.jsonl"));
    /// let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// sum.get().await?;
    /// app.export(&file).await?;
    ///
    /// App::import(&file, &path, Engine::Sled).await?;
    /// let other = App::open(path).tasks(tasks![add]).start().await?;
    /// assert_eq!(other.async_result::<i64>(sum.id()).await?.get().await?, 4);
    /// # other.shutdown().await?;
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if a record is damaged, or if the file already exists or cannot be written
    /// (then no file is left); [`Error::ShutDown`] or [`Error::Halted`].
    pub async fn export(&self, file: impl Into<PathBuf>) -> Result<u64> {
        let file = file.into();
        let write = move |store: &dyn Store| persistence::export_to_file(store, &file);
        self.0.backend.inspect(Box::new(write)).await
    }

    /// Imports an [export](App::export) into a new store of this engine in this directory, all of
    /// it or nothing: an interrupted import is refused when it is opened, and completed by
    /// importing again. Returns the number of records. For another kind of store use
    /// [`persistence::import`].
    ///
    /// [`export`](App::export) has an example.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the file is incomplete or the store is not empty,
    /// [`StoreError::UnsupportedVersion`] if a later version wrote it, the errors of reading the
    /// file and opening the store, and [`Error::NoThread`].
    #[cfg(any(feature = "sled", feature = "redb"))]
    pub async fn import(
        file: impl Into<PathBuf>,
        directory: impl Into<PathBuf>,
        engine: Engine,
    ) -> Result<u64> {
        let (file, directory) = (file.into(), directory.into());
        let read = move || {
            let operation = || format!("open {}", file.display());
            let text = File::open(&file).map_err(|e| StoreError::io(operation(), e))?;
            let store = engine.open(&directory)?;
            persistence::import(&*store, BufReader::new(text))
        };
        on_a_thread("chordal-import", read).await
    }
}

/// Runs `work` on its own thread with this name, because it blocks and the caller's executor is
/// unknown.
async fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T> {
    let (done, waiting) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || drop(done.send(work())))
        .map_err(|error| Error::no_thread("for the upkeep of a store", &error))?;
    let panicked = |_| Error::Halted(format!("{name} panicked"));
    Ok(waiting.await.map_err(panicked)??)
}
