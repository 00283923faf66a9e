//! Files and directories, with our errors.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::without::{Rule::H1, without};
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

/// In the directory of a copy that is not whole yet: it may be wiped.
pub(super) const UNFINISHED: &str = ".unfinished";

/// Makes the directory of a copy, anew if one that was cut short has left it.
pub(super) fn begin_copy(part: &Path) -> Result<(), StoreError> {
    let mark = part.join(UNFINISHED);
    if mark.exists() {
        fs::remove_dir_all(part).map_err(|e| failed("remove", part, e))?;
    } else if part.exists() {
        return Err(failed("copy to", part, ErrorKind::AlreadyExists.into()));
    }
    make_dir(part)?;
    open_private(&mark).map(|_| ())
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
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|e| failed("open", path, e))
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
        opened => opened
            .and_then(|file| fsync(&file))
            .map_err(|e| failed("fsync", path, e)),
    }
}

/// Makes the names in a directory durable, where the system has such a thing.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| fsync(&dir))
            .map_err(|e| failed("fsync", dir, e))?;
    }
    Ok(())
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
