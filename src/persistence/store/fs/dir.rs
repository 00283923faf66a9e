//! A directory that is held open.
//!
//! Names are looked up in the opened directory, wherever it has been renamed to since: an operation
//! on a path would reach whatever directory has taken its place. Making a name durable through the
//! open handle also needs no new descriptor, when there may be none to spare.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[cfg(unix)]
use super::files::fsync;
use super::files::{failed, refuse_link, unsynced};
#[cfg(not(unix))]
use super::files::{open_new, open_old};
use crate::persistence::store::StoreError;

/// A directory of the store, held open.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    handle: Handle,
    /// Test hook: opening a file in the directory fails with this system error.
    #[cfg(test)]
    fault: parking_lot::Mutex<Option<i32>>,
}

impl Dir {
    /// Opens an existing directory; refuses a symbolic link.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        refuse_link(&path)?;
        #[cfg(test)]
        if let Some(errno) = BROKEN.with_borrow(|broken| broken.get(&path).copied()) {
            let error = io::Error::from_raw_os_error(errno);
            return Err(failed("open", &path, error));
        }
        let handle = Handle::open(&path).map_err(|e| failed("open", &path, e))?;
        Ok(Self {
            path,
            handle,
            #[cfg(test)]
            fault: parking_lot::Mutex::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if the directory is no longer at its path.
    pub(crate) fn check_in_place(&self) -> Result<(), StoreError> {
        let what = match self.handle.is_at(&self.path) {
            Ok(true) => return Ok(()),
            Ok(false) => "was replaced by another",
            Err(e) if e.kind() == ErrorKind::NotFound => "was renamed or deleted",
            Err(e) => return Err(failed("look at", &self.path, e)),
        };
        Err(StoreError::Moved {
            path: self.path.clone(),
            what,
        })
    }

    /// Creates a file, readable by its owner only; fails if the name exists.
    pub(crate) fn create(&self, name: &OsStr) -> Result<File, StoreError> {
        let path = self.path.join(name);
        self.fault()
            .and_then(|()| self.handle.create(&path, name))
            .map_err(|e| failed("make", &path, e))
    }

    /// Opens an existing file for reading and writing; refuses a symbolic link.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<File, StoreError> {
        let path = self.path.join(name);
        self.fault()
            .and_then(|()| self.handle.open_file(&path, name))
            .map_err(|e| failed("open", &path, e))
    }

    /// Opens a file, or creates it.
    pub(crate) fn create_or_open(&self, name: &OsStr) -> Result<File, StoreError> {
        match self.create(name) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                self.open_file(name)
            }
            created => created,
        }
    }

    /// Removes a file; a missing file is no error.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match self.handle.remove(&path, name) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Makes the names in the directory durable, where the system supports that.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.handle.sync().map_err(|e| unsynced(&self.path, e))
    }

    #[cfg(not(test))]
    fn fault(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn fault(&self) -> io::Result<()> {
        match *self.fault.lock() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    /// Makes opening a file in the directory fail with this error, or succeed again with `None`.
    #[cfg(test)]
    pub(crate) fn fail_with(&self, errno: Option<i32>) {
        *self.fault.lock() = errno;
    }
}

#[cfg(test)]
thread_local! {
    /// The directories that this thread fails to open, and the error of each.
    static BROKEN: std::cell::RefCell<std::collections::HashMap<PathBuf, i32>> = std::cell::RefCell::default();
}

/// Makes opening this directory fail in this thread with this error, or succeed again with `None`.
#[cfg(test)]
pub(crate) fn fail_openings_of(path: &Path, errno: Option<i32>) {
    let path = path.canonicalize().unwrap();
    BROKEN.with_borrow_mut(|broken| match errno {
        Some(errno) => drop(broken.insert(path, errno)),
        None => drop(broken.remove(&path)),
    });
}

/// Returns whether the file has a name left: data written to a file without a name is gone with the
/// process.
///
/// The kernel is asked only for the number of links: once a process has read a file's time of
/// change, the next write records a finer one, which then goes to the disk with each fdatasync.
#[cfg(target_os = "linux")]
pub(crate) fn has_a_name(file: &File) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxFlags, fstat, statx};
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
        Ok(metadata) => Ok(metadata.stx_nlink > 0),
        // An old kernel, or one that is configured to reject this call.
        Err(_) => Ok(fstat(file)?.st_nlink > 0),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn has_a_name(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstat(file)?.st_nlink > 0)
}

#[cfg(not(unix))]
pub(crate) fn has_a_name(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Fails if the file has been deleted.
pub(crate) fn check_has_a_name(file: &File, path: &Path) -> Result<(), StoreError> {
    match has_a_name(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::Moved {
            path: path.to_owned(),
            what: "was deleted",
        }),
        Err(e) => Err(failed("look at", path, e)),
    }
}

#[cfg(unix)]
#[derive(Debug)]
struct Handle {
    file: File,
    /// The device and inode number.
    id: (u64, u64),
}

#[cfg(unix)]
impl Handle {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let id = id(&metadata);
        Ok(Self { file, id })
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(id(&fs::symlink_metadata(path)?) == self.id)
    }

    fn create(&self, _: &Path, name: &OsStr) -> io::Result<File> {
        use rustix::fs::OFlags;
        self.open_at(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open_file(&self, _: &Path, name: &OsStr) -> io::Result<File> {
        self.open_at(name, rustix::fs::OFlags::NOFOLLOW)
    }

    fn open_at(&self, name: &OsStr, how: rustix::fs::OFlags) -> io::Result<File> {
        use rustix::fs::{Mode, OFlags, openat};
        let how = OFlags::RDWR | OFlags::CLOEXEC | how;
        let opened = openat(&self.file, name, how, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(opened))
    }

    fn remove(&self, _: &Path, name: &OsStr) -> io::Result<()> {
        let flags = rustix::fs::AtFlags::empty();
        Ok(rustix::fs::unlinkat(&self.file, name, flags)?)
    }

    fn sync(&self) -> io::Result<()> {
        fsync(&self.file)
    }
}

/// Returns the device and inode number of a file.
#[cfg(unix)]
pub(crate) fn id(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Needs no handle: these systems do not rename a directory that is in use.
#[cfg(not(unix))]
#[derive(Debug)]
struct Handle;

#[cfg(not(unix))]
impl Handle {
    fn open(_: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        fs::metadata(path).map(|metadata| metadata.is_dir())
    }

    fn create(&self, path: &Path, _: &OsStr) -> io::Result<File> {
        open_new(path)
    }

    fn open_file(&self, path: &Path, _: &OsStr) -> io::Result<File> {
        open_old(path)
    }

    fn remove(&self, path: &Path, _: &OsStr) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
