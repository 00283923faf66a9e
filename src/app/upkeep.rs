//! Upkeep of a store: whether it is whole, copies of it, moving it elsewhere.

#[cfg(feature = "sled")]
use std::fs::File;
#[cfg(feature = "sled")]
use std::io::BufReader;
use std::path::PathBuf;
use std::thread;

use tokio::sync::oneshot;

use super::App;
use crate::actors::shared::Backend;
use crate::actors::store;
use crate::error::{Error, Result};
#[cfg(any(feature = "sled", feature = "redb"))]
use crate::persistence::Salvaged;
use crate::persistence::{self, Store, StoreError};
#[cfg(feature = "sled")]
use crate::persistence::{Audit, SledStore};

impl App {
    /// Reads all of the store in this directory, which nobody may have open, and says what is wrong with
    /// it: frames of the log, checksums, and what records say of each other.
    ///
    /// Not one byte in the directory is changed. What sled would do to it when it opens, it does to a
    /// copy, `<directory>.verify`, which takes as much space again while this runs (less where the file
    /// system shares blocks between copies). Where no directory can be made beside the store, as on a
    /// read-only volume, the copy is in [`temp_dir`](std::env::temp_dir). An audit that is killed leaves its
    /// copy; the next one removes it, and so does the next start of an app over the store. This is for the default engine; for others there is
    /// [`Audit::of`](crate::persistence::Audit::of).
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
    /// [`StoreError::Locked`] if it is open; [`StoreError::Io`] and [`StoreError::Full`] if there is none, or
    /// if it cannot be copied; [`Error::NoThread`]. What is wrong with it is no error, but in the answer.
    #[cfg(feature = "sled")]
    pub async fn verify(directory: impl Into<PathBuf>) -> Result<Audit> {
        let directory = directory.into();
        on_a_thread("chordal-verify", move || SledStore::verify(directory)).await
    }

    /// Copies all that can still be read of the closed, damaged store in `from` into a new store in `to`,
    /// and returns what is missing. The store in `from` is read and not changed, and needs not to be one that
    /// can be opened; `to` must be empty or absent.
    ///
    /// Of the default engine all whole commits of the log are read, and all whole pages of sled's file,
    /// without sled. Of redb all is read that redb can open. Workflows of which a part is missing are left
    /// out, and their ids are returned: the new store can be opened, and [`verify`](Self::verify) finds
    /// nothing wrong with it. A workflow that has not ended may be older in it than it was: read
    /// [`Salvaged`] before you open it.
    ///
    /// It is made in `<to>.part`, which is renamed at the end.
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
    /// [`StoreError::Locked`] if the store is open; [`StoreError::UnsupportedVersion`] if a later version wrote it;
    /// [`StoreError::Io`] if there is none, if `to` is not empty or lies in `from`, or if one cannot be read
    /// or the other not be written; [`StoreError::Full`]; of redb also [`StoreError::Corrupt`] if redb cannot
    /// open its file at all. Damage is otherwise no error, but in the answer.
    #[cfg(any(feature = "sled", feature = "redb"))]
    pub async fn salvage(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Result<Salvaged> {
        let (from, to) = (from.into(), to.into());
        on_a_thread("chordal-salvage", move || persistence::salvage(&from, &to)).await
    }

    /// Copies the store to a directory that is not there yet, while work goes on. The copy holds all that
    /// anybody had been told of before the call, and is a store like any other.
    ///
    /// It is made in `<directory>.part`, which is renamed at the end: a backup that was cut short is none.
    /// Meanwhile the log is not moved on into sled, so memory grows with what is committed; when that is
    /// eight times as much as usual, commits wait. A store is closed only when its backups are done.
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
    /// [`Error::Store`] if the store has stopped, if the directory is there already or cannot be written,
    /// or if the store is one without this means; [`Error::NoThread`], [`Error::ShutDown`] or
    /// [`Error::Halted`].
    pub async fn backup(&self, directory: impl Into<PathBuf>) -> Result<()> {
        let store = self.0.shared.reader()?.store().clone();
        let directory = directory.into();
        on_a_thread("chordal-backup", move || store.backup(&directory)).await
    }

    /// Writes all that is in the store to a new file, as lines of JSON, to be [imported](App::import) into
    /// a store of any kind: see [`persistence::export`]. Returns how many records there are.
    ///
    /// Commits wait until it is done, so of a large store rather export a [backup](App::backup).
    ///
    /// ```
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
    /// App::import(&file, &path).await?;
    /// let other = App::open(path).tasks(tasks![add]).start().await?;
    /// assert_eq!(other.async_result::<i64>(sum.id()).await?.get().await?, 4);
    /// # other.shutdown().await?;
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if a record is damaged, or if the file is there already or cannot be written (then
    /// there is none); [`Error::ShutDown`] or [`Error::Halted`].
    pub async fn export(&self, file: impl Into<PathBuf>) -> Result<u64> {
        let file = file.into();
        let write = move |store: &dyn Store| persistence::export_to_file(store, &file);
        match &self.0.shared.backend {
            Backend::Engine(plant) => {
                self.0.shared.reader()?;
                let done = store::inspect(&plant.client().store, write).await;
                let gone = |_| self.0.shared.ended().unwrap_or(Error::ShutDown);
                Ok(done.map_err(gone)??)
            }
            Backend::Eager(_) => Ok(write(&**self.0.shared.reader()?.store())?),
        }
    }

    /// Puts what was [exported](App::export) into a new store in this directory, all of it or nothing: an
    /// import that was cut short is refused when it is opened, and done by importing again. Returns how
    /// many records there are. For another kind of store there is [`persistence::import`].
    ///
    /// The example is at [`export`](App::export).
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the file is not whole or the store is not empty, [`StoreError::UnsupportedVersion`] if
    /// a later version wrote it, those of reading the one and opening the other, and [`Error::NoThread`].
    #[cfg(feature = "sled")]
    pub async fn import(file: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Result<u64> {
        let (file, directory) = (file.into(), directory.into());
        let read = move || {
            let doing = || format!("open {}", file.display());
            let text = File::open(&file).map_err(|e| StoreError::io(doing(), e))?;
            let store = SledStore::open(directory)?;
            persistence::import(&store, BufReader::new(text))
        };
        on_a_thread("chordal-import", read).await
    }
}

/// Has this done by a thread of its own, of this name: it blocks, and the caller's executor is unknown.
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
