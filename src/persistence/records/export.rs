//! A store as text, to move it to another engine or to archive it.
//!
//! ```text
//! {"chordal":"store","version":1}
//! {"key":"<hex>","value":"<hex>"}       one line per record, keys ascending
//! {"records":2,"crc32":"<8 hex digits>"}  of all bytes before this line
//! ```

use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::{audit, keys};
use crate::persistence::store::fs::files;
use crate::persistence::{Batch, Durability, Store, StoreError};

const NAME: &str = "store";
const VERSION: u8 = 1;
/// Longer than any line that an export contains.
const LONGEST: u64 = 1 << 20;
/// The approximate number of bytes imported per batch.
const BATCH: usize = 256 << 10;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportHeader {
    chordal: String,
    version: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Record { key: String, value: String },
    End { records: u64, crc32: String },
}

/// Writes all records of a store as lines of JSON; returns the number of records.
///
/// The store must not be written to meanwhile: [`App::export`](crate::App::export) makes sure of
/// that. A damaged record is an error; it is not exported.
///
/// # Examples
/// ```
/// # use chordal::persistence::{self, MemoryStore};
/// let mut text = Vec::new();
/// assert_eq!(persistence::export(&MemoryStore::new(), &mut text)?, 0);
/// assert_eq!(persistence::import(&MemoryStore::new(), &text[..])?, 0);
/// # Ok::<(), chordal::StoreError>(())
/// ```
///
/// # Errors
///
/// Those of the store; [`StoreError::Io`] and [`StoreError::Full`] of the writer.
pub fn export(store: &dyn Store, to: impl Write) -> Result<u64, StoreError> {
    let mut out = ChecksumWriter::new(to);
    out.line(&ExportHeader {
        chordal: NAME.to_owned(),
        version: VERSION,
    })?;
    let mut records = 0;
    for pair in store.scan(&[0], &[0xff]) {
        let (key, value) = pair?;
        audit::check(&key, &value)?;
        out.line(&Line::Record {
            key: hex(&key),
            value: hex(&value),
        })?;
        records += 1;
    }
    let crc32 = format!("{:08x}", out.crc.clone().finalize());
    out.line(&Line::End { records, crc32 })?;
    out.to.flush().map_err(|e| failed("write", e))?;
    Ok(records)
}

/// Exports into a new file, which is removed again on failure. File and name are on disk when this
/// returns.
pub(crate) fn export_to_file(store: &dyn Store, path: &Path) -> Result<u64, StoreError> {
    // Applied batches may still be on their way into the store.
    store.sync(Durability::Process)?;
    let path = std::path::absolute(path).map_err(|e| files::failed("resolve", path, e))?;
    let file = files::open_new(&path).map_err(|e| files::failed("write", &path, e))?;
    let written = export(store, BufWriter::new(&file)).and_then(|records| {
        file.sync_all().map_err(|e| files::unsynced(&path, e))?;
        path.parent().map_or(Ok(()), files::sync_dir)?;
        Ok(records)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    written
}

/// Imports the output of [`export`] into an empty store; returns the number of records.
///
/// The import is all or nothing: until it completes, a mark in the store makes every app refuse to
/// open it. An import into a store with that mark starts over.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if the text is not whole or the store is not empty, [`StoreError::UnsupportedVersion`] if
/// a later version wrote it, [`StoreError::Io`] of the reader, and those of the store.
pub fn import(store: &dyn Store, from: impl BufRead) -> Result<u64, StoreError> {
    let is_unfinished = store.get(keys::IMPORTING)?.is_some();
    if is_unfinished {
        clear(store)?;
    } else if let Some(pair) = store.scan(&[0], &[0xff]).next() {
        pair?;
        return Err(damaged(
            "the store",
            "it is not empty, so nothing can be imported",
        ));
    }
    let mut batch = Batch::new();
    batch.put(keys::IMPORTING, codec::encode(Kind::Mark, &()));
    store.apply(batch)?;
    store.sync(Durability::Power)?;
    match import_lines(store, from) {
        Ok(records) => {
            let mut batch = Batch::new();
            batch.delete(keys::IMPORTING);
            store.apply(batch)?;
            store.sync(Durability::Power)?;
            Ok(records)
        }
        Err(error) => {
            // If this fails as well, the mark stays and later opens report it.
            let _ = clear(store);
            Err(error)
        }
    }
}

fn import_lines(store: &dyn Store, from: impl BufRead) -> Result<u64, StoreError> {
    let mut lines = LineReader::new(from);
    let header: ExportHeader = lines.next()?;
    if header.chordal != NAME {
        return Err(lines.damaged("it is not an exported store"));
    }
    if header.version > VERSION {
        return Err(StoreError::UnsupportedVersion {
            path_or_place: "the exported store".to_owned(),
            found: header.version,
            supported: VERSION,
        });
    }
    let mut records = 0;
    let mut last = Vec::new();
    let mut batch = Batch::new();
    loop {
        let before = lines.crc.clone().finalize();
        match lines.next()? {
            Line::Record { key, value } => {
                let (Some(key), Some(value)) = (unhex(&key), unhex(&value)) else {
                    return Err(lines.damaged("it is not written in hexadecimal digits"));
                };
                if key <= last || key == keys::IMPORTING {
                    return Err(lines.damaged("its key is not in order"));
                }
                audit::check(&key, &value)?;
                last.clone_from(&key);
                batch.put(key, value);
                records += 1;
                if batch.bytes() >= BATCH {
                    store.apply(std::mem::take(&mut batch))?;
                    store.sync(Durability::Process)?;
                }
            }
            Line::End {
                records: all,
                crc32,
            } => {
                if all != records || crc32 != format!("{before:08x}") {
                    return Err(
                        lines.damaged("the lines before it are not those that were exported")
                    );
                }
                lines.end()?;
                store.apply(batch)?;
                // The mark is deleted only when all records are on disk.
                store.sync(Durability::Power)?;
                return Ok(records);
            }
        }
    }
}

/// Deletes all records, the mark last.
fn clear(store: &dyn Store) -> Result<(), StoreError> {
    loop {
        let mut batch = Batch::new();
        for pair in store.scan(&[0], &[0xff]).take(1_000) {
            let (key, _) = pair?;
            if key != keys::IMPORTING {
                batch.delete(key);
            }
        }
        let is_last = batch.is_empty();
        if is_last {
            batch.delete(keys::IMPORTING);
        }
        store.apply(batch)?;
        store.sync(Durability::Power)?;
        if is_last {
            return Ok(());
        }
    }
}

/// A writer of lines that computes the checksum of all of them.
struct ChecksumWriter<W> {
    to: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> ChecksumWriter<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            crc: crc32fast::Hasher::new(),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec(line).expect("texts and numbers can be written");
        text.push(b'\n');
        self.crc.update(&text);
        self.to.write_all(&text).map_err(|e| failed("write", e))
    }
}

/// A reader of lines that computes the checksum of all of them.
struct LineReader<R> {
    from: R,
    crc: crc32fast::Hasher,
    number: u64,
    text: Vec<u8>,
}

impl<R: BufRead> LineReader<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            crc: crc32fast::Hasher::new(),
            number: 0,
            text: Vec::new(),
        }
    }

    fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, StoreError> {
        self.number += 1;
        self.text.clear();
        let mut line = (&mut self.from).take(LONGEST);
        line.read_until(b'\n', &mut self.text)
            .map_err(|e| failed("read", e))?;
        if self.text.last() != Some(&b'\n') {
            return Err(self.damaged("it is cut off"));
        }
        self.crc.update(&self.text);
        serde_json::from_slice(&self.text).map_err(|_| self.damaged("it is malformed"))
    }

    fn end(&mut self) -> Result<(), StoreError> {
        self.number += 1;
        let more = self.from.fill_buf().map_err(|e| failed("read", e))?;
        match more.is_empty() {
            true => Ok(()),
            false => Err(self.damaged("it follows the last line")),
        }
    }

    fn damaged(&self, what: &str) -> StoreError {
        damaged(&format!("line {} of the exported store", self.number), what)
    }
}

fn damaged(place: &str, what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: place.to_owned(),
        what: what.to_owned(),
    }
}

fn failed(doing: &str, error: io::Error) -> StoreError {
    StoreError::io(format!("{doing} the exported store"), error)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    pairs.iter().map(byte).collect()
}
