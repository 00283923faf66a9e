//! Operations on files and directories that return [`StoreError`]s.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::persistence::store::StoreError;
use crate::testing::negative_control::Rule::H1;
use crate::testing::negative_control::without;

/// Creates a directory and its ancestors, accessible by their owner only; an existing one is left
/// as it is.
pub(crate) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .map_err(|e| failed("make the directory", dir, e))
}

/// Creates a directory as [`make_dir`] does, and makes its name durable, and the names of its
/// ancestors that were missing. Returns its canonical path: absolute, without links.
pub(crate) fn make_dir_durably(dir: &Path) -> Result<PathBuf, StoreError> {
    let missing = dir
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .count();
    make_dir(dir)?;
    let created = dir.canonicalize().map_err(|e| failed("resolve", dir, e))?;
    for parent in created.ancestors().skip(1).take(missing) {
        sync_dir(parent)?;
    }
    Ok(created)
}

/// Fails on a symbolic link in place of a file or directory of the store: writes to it would go
/// elsewhere.
pub(crate) fn refuse_link(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            let why = "it is a symbolic link, and those in a store's directory are not followed";
            Err(failed("open", path, io::Error::other(why)))
        }
        // Opening it reports any other problem.
        _ => Ok(()),
    }
}

/// Fails if a file of the directory is a symbolic link.
pub(crate) fn refuse_links_in(dir: &Path) -> Result<(), StoreError> {
    list(dir)?
        .iter()
        .try_for_each(|name| refuse_link(&dir.join(name)))
}

/// The mark in the directory of an unfinished copy, which may be wiped.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// Creates the directory of a copy; removes one that an interrupted copy left first.
pub(crate) fn begin_copy(part: &Path) -> Result<(), StoreError> {
    let mark = part.join(UNFINISHED);
    if mark.exists() {
        remove_marked(part, UNFINISHED).map_err(|e| failed("remove", part, e))?;
    } else if part.exists() {
        return Err(failed("copy to", part, ErrorKind::AlreadyExists.into()));
    }
    if let Some(parent) = part.parent() {
        make_dir_durably(parent)?;
    }
    make_dir(part)?;
    open_private(&mark).map(|_| ())
}

/// Builds a copy by `fill`, in `<to>.part`, and renames it to `to`, which must not exist. An
/// interrupted copy is never taken for a store.
pub(crate) fn make_copy(
    to: &Path,
    fill: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let to = std::path::absolute(to).map_err(|e| failed("resolve", to, e))?;
    if fs::symlink_metadata(&to).is_ok() {
        return Err(failed("back up to", &to, ErrorKind::AlreadyExists.into()));
    }
    let part = with_ending(&to, ".part");
    begin_copy(&part)?;
    let copied = fill(&part)
        .and_then(|()| remove(&part.join(UNFINISHED)))
        .and_then(|()| sync_dir(&part))
        .and_then(|()| rename(&part, &to))
        .and_then(|()| to.parent().map_or(Ok(()), sync_dir));
    if copied.is_err() {
        // The part that stays carries the mark of an unfinished copy.
        let _ = remove_marked(&part, UNFINISHED);
    }
    copied
}

/// Copies the first `length` bytes of a file; the copy is on disk when this returns.
pub(crate) fn copy_file(from: &Path, to: &Path, length: u64) -> Result<(), StoreError> {
    let copy = || -> io::Result<File> {
        let source = File::open(from)?;
        let mut copied = open_new(to)?;
        // (This shares blocks instead of copying them, where the file system supports that.)
        io::copy(&mut source.take(length), &mut copied)?;
        Ok(copied)
    };
    let doing = || format!("copy {} to {}", from.display(), to.display());
    let copied = copy().map_err(|e| StoreError::io(doing(), e))?;
    fsync(&copied).map_err(|e| StoreError::final_io(doing(), e))
}

/// Removes a directory and its content. The file that marks it as removable goes last, so that an
/// interrupted removal leaves the mark.
pub(crate) fn remove_marked(dir: &Path, mark: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == mark {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(dir.join(mark))?;
    fs::remove_dir(dir)
}

/// Returns the path with `ending` appended to its name.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Returns the names in a directory; none if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<OsString>, StoreError> {
    let names = || -> io::Result<Vec<OsString>> {
        #[cfg(test)]
        if let Some(errno) = LISTINGS.get() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    match names() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|e| failed("list", dir, e)),
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| failed("rename", from, e))
}

/// Removes a file; a missing file is no error.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path, e)),
        _ => Ok(()),
    }
}

/// Opens a file as it is, or creates it for its owner only.
pub(crate) fn open_private(path: &Path) -> Result<File, StoreError> {
    refuse_link(path)?;
    let mut options = private();
    options.create(true).truncate(false);
    options.open(path).map_err(|e| failed("open", path, e))
}

/// Opens an existing file.
pub(crate) fn open_old(path: &Path) -> io::Result<File> {
    private().open(path)
}

/// Creates a file for its owner only; fails if it exists.
pub(crate) fn open_new(path: &Path) -> io::Result<File> {
    private().create_new(true).open(path)
}

/// Options for reading and writing; for the owner only if the file is created; symbolic links are
/// not followed.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    }
    options
}

/// Revokes the permissions of all users but the owner of a file or directory.
pub(crate) fn make_private(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let done = fs::metadata(path).and_then(|metadata| {
            let mut permissions = metadata.permissions();
            let mode = permissions.mode();
            if mode & 0o077 == 0 {
                return Ok(());
            }
            permissions.set_mode(mode & 0o700);
            fs::set_permissions(path, permissions)
        });
        // sled removes some of its files while it is open.
        match done {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(failed("make private", path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fsyncs a file or directory of a store (H1).
pub(crate) fn fsync(file: &File) -> io::Result<()> {
    if without(H1) {
        return Ok(());
    }
    file.sync_all()
}

/// Fdatasyncs a file of a store (H1).
pub(crate) fn fdatasync(file: &File) -> io::Result<()> {
    if without(H1) {
        return Ok(());
    }
    file.sync_data()
}

/// Fsyncs a file; one that was removed meanwhile needs no fsync.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    // Opened for writing, because Windows refuses to flush a file opened for reading.
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("open", path, e)),
        Ok(file) => fsync(&file).map_err(|e| unsynced(path, e)),
    }
}

/// Makes the names in a directory durable, where the system supports that.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        let handle = File::open(dir).map_err(|e| failed("open", dir, e))?;
        fsync(&handle).map_err(|e| unsynced(dir, e))?;
        #[cfg(test)]
        SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    }
    Ok(())
}

/// Makes all listings of directories fail in this thread with this error, or succeed again with
/// `None`.
#[cfg(test)]
pub(crate) fn fail_listings(errno: Option<i32>) {
    LISTINGS.set(errno);
}

#[cfg(test)]
thread_local! {
    static LISTINGS: std::cell::Cell<Option<i32>> = const { std::cell::Cell::new(None) };
    /// The directories whose names this thread has made durable.
    pub(crate) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Returns the error of a failed fsync.
pub(crate) fn unsynced(path: &Path, source: io::Error) -> StoreError {
    StoreError::io_once(format!("fsync {}", path.display()), source)
}

pub(crate) fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{doing} {}", path.display()), source)
}

pub(crate) fn damaged(place: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        path_or_place: place.display().to_string(),
        what: what.into(),
    }
}
