//! What is to be counted: the files, which of them are text, and where they are cut.
//!
//! The corpus is read once, a block at a time; what is kept is a few bytes per chunk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// How much of a file is in memory while it is looked through.
const BLOCK: usize = 256 * 1_024;
/// How many chunks are merged into one table.
const CHUNKS: usize = 32;
/// How many tables are merged into one, or into the answer.
const TABLES: usize = 10;

/// Part of one file: what one map task counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Not a `PathBuf`, which serde writes only if it is UTF-8.
    pub(crate) path: OsString,
    pub(crate) stamp: Stamp,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// What tells whether a file is still the one that was looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    len: u64,
    /// Nanoseconds since the Unix epoch, 0 where the system keeps no such time.
    modified: i64,
}

/// The whole of what is to be counted.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Files that are UTF-8.
    pub(crate) files: u64,
    /// Files that are not.
    pub(crate) skipped: u64,
    pub(crate) chunks: Vec<Chunk>,
    /// The same for the same files, if none has changed.
    pub(crate) fingerprint: u128,
}

impl Plan {
    /// Looks through all files under `paths` but those under `without`, and cuts them into chunks
    /// of at most `chunk_bytes`.
    pub(crate) fn of(
        paths: &[PathBuf],
        without: &[PathBuf],
        chunk_bytes: u64,
    ) -> anyhow::Result<Self> {
        let mut plan = Self {
            files: 0,
            skipped: 0,
            chunks: Vec::new(),
            fingerprint: FNV_OFFSET,
        };
        for (path, stamp) in files(paths, without)? {
            let name = path.as_os_str().as_encoded_bytes();
            plan.mark(&(name.len() as u64).to_le_bytes());
            plan.mark(name);
            plan.mark(&stamp.len.to_le_bytes());
            plan.mark(&stamp.modified.to_le_bytes());
            plan.add(&path, stamp, chunk_bytes)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(plan)
    }

    fn add(&mut self, path: &Path, stamp: Stamp, chunk_bytes: u64) -> io::Result<()> {
        let Some(ends) = cuts(File::open(path)?, chunk_bytes)? else {
            self.skipped += 1;
            return Ok(());
        };
        self.files += 1;
        let mut start = 0;
        for end in ends {
            self.chunks.push(Chunk {
                path: path.into(),
                stamp,
                start,
                len: end - start,
            });
            start = end;
        }
        Ok(())
    }

    /// FNV-1a, because it is short and will be the same in every build.
    fn mark(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.fingerprint ^= u128::from(*byte);
            self.fingerprint = self.fingerprint.wrapping_mul(FNV_PRIME);
        }
    }
}

const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Chunk {
    /// Reads the chunk, and no other byte of the file.
    pub(crate) fn read(&self) -> anyhow::Result<String> {
        let path = Path::new(&self.path);
        let read = || -> io::Result<String> {
            let mut file = File::open(path)?;
            if Stamp::of(&file.metadata()?) != self.stamp {
                return Err(io::Error::other(
                    "it has changed since it was cut into chunks",
                ));
            }
            io::Seek::seek(&mut file, io::SeekFrom::Start(self.start))?;
            let mut bytes = vec![0; self.len as usize];
            file.read_exact(&mut bytes)?;
            String::from_utf8(bytes).map_err(io::Error::other)
        };
        read().with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        let nanos = |time: std::time::SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_nanos() as i64,
            Err(before) => -(before.duration().as_nanos() as i64),
        };
        Self {
            len: file.len(),
            modified: file.modified().map_or(0, nanos),
        }
    }
}

/// In how many levels the tables of so many chunks are merged before the answer is made of them,
/// and how many at a time in each: so many that no task loads more than some tens.
pub(crate) fn merges(chunks: usize) -> Vec<usize> {
    let (mut widths, mut tables, mut width) = (Vec::new(), chunks, CHUNKS);
    while tables > width {
        tables = tables.div_ceil(width);
        widths.push(width);
        width = TABLES;
    }
    widths
}

/// All regular files under `paths`, each once, in order. Symbolic links are followed where they
/// are given as a path, and nowhere below: so there are no cycles.
fn files(paths: &[PathBuf], without: &[PathBuf]) -> anyhow::Result<BTreeMap<PathBuf, Stamp>> {
    let without: Vec<PathBuf> = without
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let mut files = BTreeMap::new();
    for path in paths {
        let failed = || format!("cannot read {}", path.display());
        let root = path.canonicalize().with_context(failed)?;
        let found = fs::metadata(&root).with_context(failed)?;
        if !found.is_dir() && !found.is_file() {
            bail!("{} is not a file or a directory", path.display());
        }
        let mut todo = vec![root];
        while let Some(path) = todo.pop() {
            if without.contains(&path) {
                continue;
            }
            let failed = || format!("cannot read {}", path.display());
            let found = fs::symlink_metadata(&path).with_context(failed)?;
            if found.is_file() {
                files.insert(path, Stamp::of(&found));
            } else if found.is_dir() {
                for entry in fs::read_dir(&path).with_context(failed)? {
                    todo.push(entry.with_context(failed)?.path());
                }
            }
        }
    }
    Ok(files)
}

/// Where to cut a text into chunks of at most `limit` bytes: the end of each. Cut is only where
/// no word is: a single word longer than `limit` stays whole, and so does a single character.
/// `None` if the bytes are not UTF-8.
fn cuts(mut text: impl Read, limit: u64) -> io::Result<Option<Vec<u64>>> {
    let mut cutter = Cutter {
        limit,
        ..Cutter::default()
    };
    let mut block = vec![0; BLOCK];
    let mut filled = 0;
    loop {
        let read = match text.read(&mut block[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += read;
        let valid = match std::str::from_utf8(&block[..filled]) {
            Ok(text) => {
                cutter.push(text);
                filled
            }
            // A character that the block has only the first bytes of.
            Err(error) if error.error_len().is_none() && read > 0 => {
                let valid = error.valid_up_to();
                cutter.push(std::str::from_utf8(&block[..valid]).expect("it was valid so far"));
                valid
            }
            Err(_) => return Ok(None),
        };
        block.copy_within(valid..filled, 0);
        filled -= valid;
        if read == 0 {
            return Ok(Some(cutter.finish()));
        }
    }
}

#[derive(Debug, Default)]
struct Cutter {
    limit: u64,
    ends: Vec<u64>,
    /// Where the chunk in the making starts.
    start: u64,
    /// The last place, behind its start, where it may end.
    boundary: u64,
    at: u64,
    /// The character before `at` belongs to a word.
    in_word: bool,
}

impl Cutter {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            let is_word = c.is_alphanumeric();
            if !(self.in_word && is_word) {
                self.boundary = self.at;
            }
            let next = self.at + c.len_utf8() as u64;
            if next - self.start > self.limit && self.boundary > self.start {
                self.ends.push(self.boundary);
                self.start = self.boundary;
            }
            self.at = next;
            self.in_word = is_word;
        }
    }

    fn finish(mut self) -> Vec<u64> {
        if self.at > self.start {
            self.ends.push(self.at);
        }
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str, limit: u64) -> Vec<&str> {
        let mut start = 0;
        let ends = cuts(text.as_bytes(), limit).unwrap().unwrap();
        ends.into_iter()
            .map(|end| {
                let piece = &text[start..end as usize];
                start = end as usize;
                piece
            })
            .collect()
    }

    fn words(text: &str) -> Vec<&str> {
        let words = text.split(|c: char| !c.is_alphanumeric());
        words.filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn a_chunk_is_as_long_as_words_allow() {
        assert_eq!(pieces("one two three", 8), ["one two ", "three"]);
        assert_eq!(pieces("one two three", 7), ["one two", " three"]);
        assert_eq!(pieces("one two", 100), ["one two"]);
        assert_eq!(pieces("", 8), Vec::<&str>::new());
        assert_eq!(pieces("  ,  ", 2), ["  ", ", ", " "]);
    }

    #[test]
    fn a_word_longer_than_a_chunk_stays_whole() {
        assert_eq!(
            pieces("a incomprehensible b", 4),
            ["a ", "incomprehensible", " b"]
        );
        assert_eq!(pieces("€€", 1), ["€", "€"]);
        assert_eq!(pieces("éé é", 1), ["éé", " ", "é"]);
    }

    #[test]
    fn what_is_not_utf8_is_told() {
        for bytes in [&b"ok \xff"[..], b"cut short \xe2\x82", b"\x80"] {
            assert_eq!(cuts(bytes, 8).unwrap(), None);
        }
        assert_eq!(cuts(&b"\xe2\x82\xac"[..], 8).unwrap(), Some(vec![3]));
    }

    /// Gives its bytes one at a time, so that every character is cut by a block.
    struct Drop<'a>(&'a [u8]);

    impl Read for Drop<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let one = 1.min(out.len()).min(self.0.len());
            let (now, later) = self.0.split_at(one);
            out[..one].copy_from_slice(now);
            self.0 = later;
            Ok(one)
        }
    }

    proptest! {
        #[test]
        fn chunks_hold_all_of_the_text_and_cut_no_word(text in "[aé€1 .\n]{0,80}", limit in 1u64..20) {
            let pieces = pieces(&text, limit);
            prop_assert_eq!(pieces.concat(), text.clone());
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let apart: Vec<&str> = pieces.iter().flat_map(|piece| words(piece)).collect();
            prop_assert_eq!(apart, words(&text));
            for piece in &pieces {
                let whole = words(piece) == [*piece] || piece.chars().count() == 1;
                prop_assert!(piece.len() as u64 <= limit || whole, "{:?}", piece);
            }
            prop_assert_eq!(cuts(Drop(text.as_bytes()), limit).unwrap(), cuts(text.as_bytes(), limit).unwrap());
        }
    }

    #[test]
    fn many_chunks_are_merged_in_levels() {
        for few in [0, 1, 32] {
            assert_eq!(merges(few), [0; 0]);
        }
        assert_eq!((merges(33), merges(320)), (vec![32], vec![32]));
        assert_eq!((merges(321), merges(3_200)), (vec![32, 10], vec![32, 10]));
        assert_eq!(merges(3_201), [32, 10, 10]);
    }

    #[test]
    fn each_file_is_found_once_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("data")).unwrap();
        for (name, bytes) in [
            ("a/one", &b"one"[..]),
            ("a/b/empty", b""),
            ("a/b/binary", b"\xff\xfe"),
            ("data/db", b"not this"),
        ] {
            fs::write(at(name), bytes).unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(home.path(), at("a/b/up")).unwrap();

        let paths = [home.path().to_owned(), at("a"), at("a/one")];
        let plan = Plan::of(&paths, &[at("data"), at("nowhere")], 100).unwrap();
        assert_eq!((plan.files, plan.skipped, plan.chunks.len()), (2, 1, 1));
        assert_eq!(plan.chunks[0].read().unwrap(), "one");

        let same = Plan::of(&paths, &[at("data")], 100).unwrap();
        assert_eq!(same.fingerprint, plan.fingerprint);
        fs::write(at("a/one"), "more").unwrap();
        let changed = Plan::of(&paths, &[at("data")], 100).unwrap();
        assert_ne!(changed.fingerprint, plan.fingerprint);
        let error = format!("{:#}", plan.chunks[0].read().unwrap_err());
        assert!(error.contains("one: it has changed"), "{error}");
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = Plan::of(&["/no/such/path".into()], &[], 100).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot read /no/such/path: "));
    }
}
