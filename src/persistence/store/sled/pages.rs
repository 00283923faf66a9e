//! Reads the content of sled's file without sled, which opens a file as a whole or not at all.
//!
//! The file is a sequence of segments, and sled's log runs through them in an order that their
//! headers give. Its messages record changes of numbered pages: a whole page, or one change of it.
//! A page is a node of a tree and holds the records between two keys.
//!
//! ```text
//! segment   crc32 (inverted) of bytes 4-19 · lsn ^ i64::MAX · stable lsn ^ i64::MAX · messages
//! message   crc32 (inverted) of the body and of bytes 4- of the header · kind (1 byte) · length of the body ·
//!           number of the segment in the log · number of the page · body
//! node      next · merging child · merging (1 byte) · length of the prefix (1 byte) · lowest key · end ·
//!           kind (0: a leaf) · count · keys without the prefix · values
//! change    0 · key without the prefix · value, or 1 · key without the prefix, or of a node with children
//! ```
//!
//! Numbers without a given size are variable integers; a byte string is its length and its bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::base::SEGMENT_BYTES;
use super::files::failed;
use crate::persistence::store::{Finding, StoreError};

const SEGMENT_HEADER: usize = 20;
/// No message begins in the last bytes of a segment. In the last segment of the file a message may
/// end with the file, which is then shorter than the segment.
const RED_ZONE: usize = 32;
/// So many segments before the newest may be cut off after a crash: nothing depends on them before
/// they are settled (H13).
const UNSETTLED: u64 = 2;

/// Kinds of messages.
mod kind {
    pub(super) const CAP: u8 = 2;
    pub(super) const FREE: u8 = 4;
    pub(super) const NODE: u8 = 8;
    pub(super) const NODE_IN_FILE: u8 = 9;
    pub(super) const CHANGE: u8 = 10;
    pub(super) const CHANGE_IN_FILE: u8 = 11;
    pub(super) const LAST: u8 = 11;
}

/// The records between two keys, according to the latest readable messages.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    pub(super) from: Vec<u8>,
    /// Empty for no upper bound.
    pub(super) to: Vec<u8>,
    pub(super) records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// sled's file, and the locations of its messages.
#[derive(Debug)]
pub(super) struct Pages {
    path: PathBuf,
    file: File,
    pages: HashMap<u64, Page>,
    /// The segments of sled's log, by number, that end in unreadable bytes, and where these bytes
    /// begin.
    cut_off: BTreeMap<u64, u64>,
    newest: u64,
    /// The defects found.
    pub(super) findings: Vec<Finding>,
}

/// The messages about one page that are not superseded.
#[derive(Debug, Default)]
struct Page {
    /// The latest message with the whole page.
    base: Option<Message>,
    /// Later changes of the page.
    changes: Vec<Message>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    kind: u8,
    /// The position in sled's log, which gives the order of the messages.
    lsn: u64,
    /// The position of the body in the file.
    position: u64,
    length: usize,
}

impl Pages {
    /// Finds all messages in `<sled>/db`.
    pub(super) fn of(sled: &Path) -> Result<Self, StoreError> {
        let path = sled.join("db");
        let mut file = File::open(&path).map_err(|e| failed("open", &path, e))?;
        let mut pages = Self {
            file: file.try_clone().map_err(|e| failed("open", &path, e))?,
            path,
            pages: HashMap::new(),
            cut_off: BTreeMap::new(),
            newest: 0,
            findings: Vec::new(),
        };
        let mut segment = Vec::with_capacity(SEGMENT_BYTES);
        for number in 0.. {
            segment.clear();
            let position = number * SEGMENT_BYTES as u64;
            match read_at(&mut file, position, &mut segment) {
                Ok(()) if segment.is_empty() => break,
                Ok(()) => pages.read_segment(position, &segment),
                Err(error) => pages.find(position, format!("it cannot be read: {error}")),
            }
        }
        let old = ..pages.newest.saturating_sub(UNSETTLED);
        let cut_off: Vec<u64> = pages
            .cut_off
            .range(old)
            .map(|(_, position)| *position)
            .collect();
        for position in cut_off {
            pages.find(position, "the end of a segment cannot be read");
        }
        Ok(pages)
    }

    fn find(&mut self, position: u64, what: impl Into<String>) {
        let place = format!("{} at {position}", self.path.display());
        self.findings.push(Finding::new(place, what));
    }

    fn read_segment(&mut self, start: u64, segment: &[u8]) {
        let Some(number) = number_of(segment) else {
            // sled fills freed segments with zeroes.
            if segment.iter().any(|byte| *byte != 0) {
                self.find(start, "a segment of which nothing can be read");
            }
            return;
        };
        self.newest = self.newest.max(number);
        let mut position = SEGMENT_HEADER;
        let mut torn = None;
        while let Some(message) = Parsed::after(segment, &mut position, number, &mut torn) {
            if let Some(from) = torn.take() {
                self.find(
                    start + from as u64,
                    format!("{} bytes cannot be read", message.start - from),
                );
            }
            if message.kind == kind::CAP {
                return;
            }
            self.note(
                message.page,
                Message {
                    kind: message.kind,
                    lsn: number * SEGMENT_BYTES as u64 + message.start as u64,
                    position: start + message.body as u64,
                    length: message.length,
                },
            );
        }
        if let Some(from) = torn {
            self.cut_off.insert(number, start + from as u64);
        }
    }

    fn note(&mut self, page: u64, message: Message) {
        match message.kind {
            kind::NODE | kind::NODE_IN_FILE | kind::FREE => {
                let page = self.pages.entry(page).or_default();
                if page.base.is_none_or(|base| base.lsn < message.lsn) {
                    page.base = Some(message);
                    page.changes.retain(|change| change.lsn > message.lsn);
                }
            }
            kind::CHANGE | kind::CHANGE_IN_FILE => {
                let page = self.pages.entry(page).or_default();
                if page.base.is_none_or(|base| base.lsn < message.lsn) {
                    page.changes.push(message);
                }
            }
            _ => {}
        }
    }

    /// Reads the leaves one after the other, older ones first: two leaves hold the same keys for a
    /// moment when one is split, and then the later one is right.
    pub(super) fn leaves(
        &mut self,
        mut each: impl FnMut(Leaf) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let pages = std::mem::take(&mut self.pages);
        let lost = pages.values().filter(|page| page.base.is_none()).count();
        if lost > 0 {
            self.find(0, format!("of {lost} pages only changes are left"));
        }
        let whole = pages.into_values();
        let mut whole: Vec<_> = whole
            .filter_map(|page| Some((page.base?, page.changes)))
            .collect();
        whole.retain(|(base, _)| base.kind != kind::FREE);
        whole.sort_unstable_by_key(|(base, _)| base.lsn);
        for (base, changes) in whole {
            match self.leaf(base, changes)? {
                Node::Leaf(leaf) => each(leaf)?,
                Node::Inner => {}
                Node::Nothing => self.find(base.position, "a page that cannot be read"),
            }
        }
        Ok(())
    }

    /// Reads the leaf of a page: its base with its changes applied.
    fn leaf(&mut self, base: Message, mut changes: Vec<Message>) -> Result<Node, StoreError> {
        let body = self.body(base)?;
        let read = body.as_deref().map_or(Some(Node::Nothing), node);
        let (mut leaf, prefix) = match read {
            Some(Node::Leaf(leaf)) => {
                let prefix = body.as_deref().and_then(prefix_of).unwrap_or_default();
                (leaf, prefix)
            }
            Some(other) => return Ok(other),
            None => return Ok(Node::Nothing),
        };
        changes.sort_unstable_by_key(|change| change.lsn);
        for change in changes {
            let body = self.body(change)?;
            let applied = body
                .as_deref()
                .and_then(|body| apply(body, &prefix, &mut leaf));
            if applied.is_none() {
                self.find(change.position, "a change that cannot be read");
            }
        }
        Ok(Node::Leaf(leaf))
    }

    /// Reads the body of a message, from a file of its own if the body is large.
    fn body(&mut self, message: Message) -> Result<Option<Vec<u8>>, StoreError> {
        let mut body = vec![0; message.length];
        self.file
            .seek(SeekFrom::Start(message.position))
            .and_then(|_| self.file.read_exact(&mut body))
            .map_err(|e| failed("read", &self.path, e))?;
        if !matches!(message.kind, kind::NODE_IN_FILE | kind::CHANGE_IN_FILE) {
            return Ok(Some(body));
        }
        let Ok(id) = <[u8; 8]>::try_from(body) else {
            return Ok(None);
        };
        let name = i64::from_le_bytes(id).to_string();
        let path = self.path.with_file_name("blobs").join(name);
        // The file is a checksum of the rest, the kind, the body.
        let file = std::fs::read(path).ok();
        Ok(file
            .filter(|file| {
                let crc = file.first_chunk().map(|crc| u32::from_le_bytes(*crc));
                file.len() > 5 && crc == Some(crc32fast::hash(&file[4..]))
            })
            .map(|mut file| file.split_off(5)))
    }
}

/// A decoded page.
enum Node {
    Leaf(Leaf),
    /// A node with children, which has no records.
    Inner,
    Nothing,
}

fn read_at(file: &mut File, position: u64, segment: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(position))?;
    file.take(SEGMENT_BYTES as u64).read_to_end(segment)?;
    Ok(())
}

/// Returns the number of this segment of sled's log: from its header or, if that is damaged, from
/// its first message.
fn number_of(segment: &[u8]) -> Option<u64> {
    let header = segment.get(..SEGMENT_HEADER)?;
    let lsn = u64::from_le_bytes(header[4..12].try_into().ok()?) ^ i64::MAX as u64;
    let crc = u32::from_le_bytes(header[..4].try_into().ok()?);
    if !crc == crc32fast::hash(&header[4..]) {
        return Some(lsn / SEGMENT_BYTES as u64);
    }
    let message = Parsed::at(segment, SEGMENT_HEADER)?;
    Some(message.segment)
}

/// A message whose checksum is right.
struct Parsed {
    kind: u8,
    segment: u64,
    page: u64,
    start: usize,
    body: usize,
    length: usize,
}

impl Parsed {
    /// Returns the next message of this segment from `position` on, and moves `position` behind it.
    /// Sets `torn` to the position of the first unreadable byte.
    fn after(
        segment: &[u8],
        position: &mut usize,
        number: u64,
        torn: &mut Option<usize>,
    ) -> Option<Self> {
        while *position < segment.len().min(SEGMENT_BYTES - RED_ZONE + 1) {
            let message = Self::at(segment, *position).filter(|found| found.segment == number);
            if let Some(message) = message {
                *position = message.body + message.length;
                return Some(message);
            }
            torn.get_or_insert(*position);
            *position += 1;
        }
        None
    }

    fn at(segment: &[u8], start: usize) -> Option<Self> {
        let message = segment.get(start..)?;
        let crc = u32::from_le_bytes(*message.first_chunk()?);
        let kind = *message.get(4)?;
        if !(1..=kind::LAST).contains(&kind) {
            return None;
        }
        let mut rest = &message[5..];
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let (in_segment, page) = (number(&mut rest)?, number(&mut rest)?);
        let header = message.len() - rest.len();
        let body = rest.get(..length)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(&message[4..header]);
        (!crc == hasher.finalize()).then_some(Self {
            kind,
            segment: in_segment,
            page,
            start,
            body: start + header,
            length,
        })
    }
}

/// Removes a number of one to nine bytes from the front.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.split_off_first()?;
    let second = |bytes: &mut &[u8]| bytes.split_off_first().copied().map(u64::from);
    match first {
        0..=240 => Some(u64::from(first)),
        241..=248 => Some(240 + 256 * (u64::from(first) - 241) + second(bytes)?),
        249 => Some(2_288 + 256 * second(bytes)? + second(bytes)?),
        _ => {
            let taken = bytes.split_off(..usize::from(first) - 247)?;
            let mut long = [0; 8];
            long[..taken.len()].copy_from_slice(taken);
            Some(u64::from_le_bytes(long))
        }
    }
}

/// Removes a byte string from the front.
fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes)?).ok()?;
    bytes.split_off(..length)
}

/// Removes the fields before the lowest key of a node from the front; returns the length of the
/// node's prefix.
fn node_header(bytes: &mut &[u8]) -> Option<usize> {
    number(bytes)?;
    number(bytes)?;
    bytes.split_off_first()?;
    bytes.split_off_first().copied().map(usize::from)
}

fn prefix_of(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let length = node_header(&mut bytes)?;
    string(&mut bytes)?.get(..length).map(<[u8]>::to_vec)
}

fn node(mut bytes: &[u8]) -> Option<Node> {
    let bytes = &mut bytes;
    let prefix = node_header(bytes)?;
    let (from, to) = (string(bytes)?, string(bytes)?);
    let prefix = from.get(..prefix)?;
    if *bytes.split_off_first()? != 0 {
        return Some(Node::Inner);
    }
    let count = number(bytes)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push([prefix, string(bytes)?].concat());
    }
    let mut records = BTreeMap::new();
    for key in keys {
        records.insert(key, string(bytes)?.to_vec());
    }
    Some(Node::Leaf(Leaf {
        from: from.to_vec(),
        to: to.to_vec(),
        records,
    }))
}

/// Applies a change to a leaf.
fn apply(mut bytes: &[u8], prefix: &[u8], leaf: &mut Leaf) -> Option<()> {
    let bytes = &mut bytes;
    match *bytes.split_off_first()? {
        0 => {
            let key = [prefix, string(bytes)?].concat();
            leaf.records.insert(key, string(bytes)?.to_vec());
        }
        1 => {
            leaf.records.remove(&[prefix, string(bytes)?].concat());
        }
        // The leaf is about to be merged into another, which takes over its records in one message.
        _ => {}
    }
    Some(())
}
