//! Files and directories, with our errors.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::negative_control::{Rule::H1, without};
use crate::persistence::StoreError;

/// Makes a directory for its owner only, and those above it; one that is there stays as it is.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .map_err(|e| failed("make the directory", dir, e))
}

/// Makes a directory as [`make_dir`] does, and makes its name durable, and those of all that were missing
/// above it. Returns its path as the system knows it: absolute, without links.
pub(super) fn make_dir_durably(dir: &Path) -> Result<PathBuf, StoreError> {
    let missing = dir
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .count();
    make_dir(dir)?;
    let made = dir.canonicalize().map_err(|e| failed("resolve", dir, e))?;
    for parent in made.ancestors().skip(1).take(missing) {
        sync_dir(parent)?;
    }
    Ok(made)
}

/// Refuses a symbolic link where a file or directory of the store should be: what is written to it would
/// be written somewhere else.
pub(super) fn refuse_link(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            let why = "it is a symbolic link, and those in a store's directory are not followed";
            Err(failed("open", path, io::Error::other(why)))
        }
        // What else is wrong, opening it tells.
        _ => Ok(()),
    }
}

/// Refuses symbolic links among the files of a directory.
pub(super) fn refuse_links_in(dir: &Path) -> Result<(), StoreError> {
    list(dir)?
        .iter()
        .try_for_each(|name| refuse_link(&dir.join(name)))
}

/// In the directory of a copy that is not whole yet: it may be wiped.
pub(super) const UNFINISHED: &str = ".unfinished";

/// Makes the directory of a copy, anew if one that was cut short has left it.
pub(super) fn begin_copy(part: &Path) -> Result<(), StoreError> {
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

/// Removes a directory with all that is in it; last the file that says that it may be removed, so that what
/// is left when this is cut short still says so.
pub(super) fn remove_marked(dir: &Path, mark: &str) -> io::Result<()> {
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

/// The path beside this one.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The names in a directory; none if there is no such directory.
pub(super) fn list(dir: &Path) -> Result<Vec<OsString>, StoreError> {
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

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| failed("rename", from, e))
}

/// Removes a file; one that is gone already is no error.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path, e)),
        _ => Ok(()),
    }
}

/// Opens a file as it is, or makes it for its owner only.
pub(super) fn open_private(path: &Path) -> Result<File, StoreError> {
    refuse_link(path)?;
    let mut options = private();
    options.create(true).truncate(false);
    options.open(path).map_err(|e| failed("open", path, e))
}

/// Opens a file that is there.
pub(super) fn open_old(path: &Path) -> io::Result<File> {
    private().open(path)
}

/// Makes a file, for its owner only, where none is.
pub(super) fn open_new(path: &Path) -> io::Result<File> {
    private().create_new(true).open(path)
}

/// For reading and writing, for the owner only if it is made, and not behind a symbolic link.
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

/// Takes from all but its owner what may have been granted for a file or directory of ours.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let done = fs::metadata(path).and_then(|found| {
            let mut permissions = found.permissions();
            let mode = permissions.mode();
            if mode & 0o077 == 0 {
                return Ok(());
            }
            permissions.set_mode(mode & 0o700);
            fs::set_permissions(path, permissions)
        });
        // sled removes files of its own while it is open.
        match done {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(failed("make private", path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The one fsync of file or directory (H1).
pub(super) fn fsync(file: &File) -> io::Result<()> {
    if without(H1) {
        return Ok(());
    }
    file.sync_all()
}

/// The one fdatasync (H1).
pub(super) fn fdatasync(file: &File) -> io::Result<()> {
    if without(H1) {
        return Ok(());
    }
    file.sync_data()
}

/// Fsyncs one file; one that has been removed meanwhile needs none.
pub(super) fn sync_file(path: &Path) -> Result<(), StoreError> {
    // For writing, because Windows refuses to flush a file opened for reading.
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("open", path, e)),
        Ok(file) => fsync(&file).map_err(|e| unsynced(path, e)),
    }
}

/// Makes the names in a directory durable, where the system has such a thing.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        let handle = File::open(dir).map_err(|e| failed("open", dir, e))?;
        fsync(&handle).map_err(|e| unsynced(dir, e))?;
        #[cfg(test)]
        SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    }
    Ok(())
}

/// Has all listings of directories in this thread fail from now on, or no longer.
#[cfg(test)]
pub(super) fn fail_listings(errno: Option<i32>) {
    LISTINGS.set(errno);
}

#[cfg(test)]
thread_local! {
    static LISTINGS: std::cell::Cell<Option<i32>> = const { std::cell::Cell::new(None) };
    /// The directories whose names this thread has made durable.
    pub(super) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The error of an fsync.
pub(super) fn unsynced(path: &Path, source: io::Error) -> StoreError {
    StoreError::io_once(format!("fsync {}", path.display()), source)
}

pub(super) fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{doing} {}", path.display()), source)
}

pub(super) fn damaged(place: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        path_or_place: place.display().to_string(),
        what: what.into(),
    }
}
