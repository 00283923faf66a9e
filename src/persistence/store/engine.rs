//! The engines that keep a store in a directory, for work on a store that is closed.

use std::io::ErrorKind;
use std::path::Path;

use super::api::Store;
use super::error::StoreError;
use super::finding::LogReport;
use super::fs::closed_copy::ClosedCopy;
use super::fs::engine_dir;
use super::fs::files::failed;
use super::salvage::SalvageSink;

/// An engine that keeps a store in a directory. A variant exists if the crate's feature of its name
/// is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// That of [`SledStore`](crate::persistence::SledStore).
    #[cfg(feature = "sled")]
    Sled,
    /// That of [`RedbStore`](crate::persistence::RedbStore).
    #[cfg(feature = "redb")]
    Redb,
}

impl Engine {
    /// The engines of this build.
    const ALL: &[Self] = &[
        #[cfg(feature = "sled")]
        Self::Sled,
        #[cfg(feature = "redb")]
        Self::Redb,
    ];

    /// Returns the engine's name, which is also that of its directory in the data directory.
    fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "sled")]
            Self::Sled => "sled",
            #[cfg(feature = "redb")]
            Self::Redb => "redb",
        }
    }

    /// Returns the engine that made the store in `data_dir`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if there is no store; [`StoreError::WrongEngine`] if this build lacks its
    /// engine.
    pub(crate) fn of(data_dir: &Path) -> Result<Self, StoreError> {
        let is_finished = |one: &&Self| engine_dir::is_finished(&data_dir.join(one.name()));
        let is_there = |one: &&Self| data_dir.join(one.name()).is_dir();
        let all = || Self::ALL.iter();
        // A damaged store may have lost the mark of a finished one.
        let found = all().find(is_finished).or_else(|| all().find(is_there));
        match found {
            Some(engine) => Ok(*engine),
            None => {
                engine_dir::check_engine(data_dir, Self::ALL[0].name())?;
                let error = ErrorKind::NotFound.into();
                Err(failed("find a store in", data_dir, error))
            }
        }
    }

    /// Opens the store in `dir`, or creates one there.
    pub(crate) fn open(self, dir: &Path) -> Result<Box<dyn Store>, StoreError> {
        Ok(match self {
            #[cfg(feature = "sled")]
            Self::Sled => Box::new(super::sled::SledStore::open(dir)?),
            #[cfg(feature = "redb")]
            Self::Redb => Box::new(super::redb::RedbStore::open(dir)?),
        })
    }

    /// Copies the closed store in `data_dir`: engines write to the files that they open.
    pub(crate) fn copy_closed(self, data_dir: &Path) -> Result<ClosedCopy, StoreError> {
        match self {
            #[cfg(feature = "sled")]
            Self::Sled => super::sled::copy_closed(data_dir),
            #[cfg(feature = "redb")]
            Self::Redb => super::redb::copy_closed(data_dir),
        }
    }

    /// Reads the log of the closed store in `data_dir`, where the engine has one, whether the store
    /// can be opened or not. An error is what keeps it from being opened.
    pub(crate) fn inspect_log(self, data_dir: &Path) -> (LogReport, Result<(), StoreError>) {
        match self {
            #[cfg(feature = "sled")]
            Self::Sled => super::sled::inspect_log(data_dir),
            #[cfg(feature = "redb")]
            Self::Redb => {
                let _ = data_dir;
                (LogReport::default(), Ok(()))
            }
        }
    }

    /// Passes what can be read of the closed store in `data_dir` to `sink`; changes nothing in the
    /// store. A copy that the engine needs is made beside `to`.
    pub(crate) fn salvage(
        self,
        data_dir: &Path,
        to: &Path,
        sink: &mut dyn SalvageSink,
    ) -> Result<(), StoreError> {
        match self {
            #[cfg(feature = "sled")]
            Self::Sled => {
                let _ = to;
                super::sled::salvage(data_dir, sink)
            }
            #[cfg(feature = "redb")]
            Self::Redb => super::redb::salvage(data_dir, to, sink),
        }
    }
}
