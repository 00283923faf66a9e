//! `docs/format.md` against a golden store: each offset, length, magic number, version and kind in its
//! tables is looked up in the stored bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use chordal::Store;
use chordal::persistence::{self, MemoryStore, SledStore};

use crate::golden::{VERSION, restored};

/// The page, by the headings of its sections.
fn sections() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let page = fs::read_to_string(page).unwrap();
    let mut sections = BTreeMap::<String, String>::new();
    let mut heading = String::new();
    for line in page.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        } else {
            let section = sections.entry(heading.clone()).or_default();
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// A byte diagram: where each named field stands, and what is written behind its name.
struct Layout(BTreeMap<String, (usize, usize, String)>);

impl Layout {
    fn of(sections: &BTreeMap<String, String>, heading: &str) -> Self {
        let mut fields = BTreeMap::new();
        for line in sections[heading].lines() {
            let mut words = line.split_whitespace();
            let (Some(offset), Some(bytes), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(offset) = offset.parse::<usize>() else {
                continue;
            };
            // `…`: to the end.
            let bytes = bytes.parse().unwrap_or(0);
            let rest = words.collect::<Vec<_>>().join(" ");
            let name = name.trim_end_matches(':').to_owned();
            fields.insert(name, (offset, bytes, rest));
        }
        assert!(!fields.is_empty(), "no byte diagram under {heading}");
        // Fields follow each other without a gap.
        let mut ends: Vec<_> = fields
            .values()
            .map(|(at, len, _)| (*at, at + len))
            .collect();
        ends.sort_unstable();
        for pair in ends.windows(2) {
            assert_eq!(pair[0].1, pair[1].0, "a gap under {heading}");
        }
        Self(fields)
    }

    fn at(&self, field: &str) -> usize {
        self.0[field].0
    }

    fn bytes<'a>(&self, field: &str, of: &'a [u8]) -> &'a [u8] {
        let (at, bytes, _) = self.0[field];
        &of[at..at + bytes]
    }

    fn number(&self, field: &str, of: &[u8]) -> u64 {
        let bytes = self.bytes(field, of).iter().rev();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// What the page says that the field is.
    fn said(&self, field: &str) -> &str {
        &self.0[field].2
    }

    fn version(&self) -> u64 {
        self.said("version").parse().unwrap()
    }

    fn has_magic(&self, of: &[u8]) -> bool {
        let quoted = self.said("magic").split('"').nth(1).unwrap();
        self.bytes("magic", of).starts_with(quoted.as_bytes())
    }
}

/// The rows of the tables of a section, by their first column; without back quotes.
fn rows(section: &str) -> BTreeMap<String, Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| cell.replace('`', "").trim().to_owned())
    });
    cells
        .map(|mut cells| (cells.next().unwrap(), cells.collect()))
        .collect()
}

fn crc(parts: &[&[u8]]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize().into()
}

/// The files of the log, by the generation in their header.
fn segments(sections: &BTreeMap<String, String>, data: &Path) -> BTreeMap<u64, Vec<u8>> {
    let header = Layout::of(sections, "Segment header");
    let files = fs::read_dir(data.join("wal")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let segments = paths.filter(|path: &PathBuf| path.extension().is_some_and(|e| e == "segment"));
    let read = segments.map(|path| {
        let bytes = fs::read(path).unwrap();
        (header.number("generation", &bytes), bytes)
    });
    read.collect()
}

#[test]
fn the_log_is_written_as_the_page_says() {
    let sections = sections();
    let header = Layout::of(&sections, "Segment header");
    let frame = Layout::of(&sections, "Frame");
    let home = restored(VERSION);
    let mut last = 0;
    let mut operations = 0;
    for (generation, file) in segments(&sections, &home.path().join("data")) {
        assert!(header.has_magic(&file));
        assert_eq!(header.number("version", &file), header.version());
        let (crc1, crc2) = (header.at("crc"), header.at("crc2"));
        assert_eq!(header.number("crc", &file), crc(&[&file[..crc1]]));
        assert_eq!(header.number("crc2", &file), crc(&[&file[..crc2]]));
        assert!(header.number("first", &file) <= last + 1);
        let mut at = header.at("frames");
        while file.len() >= at + frame.at("body") && frame.has_magic(&file[at..]) {
            let bytes = &file[at..];
            assert_eq!(bytes[3], 1, "the version of a frame");
            assert_eq!(frame.number("generation", bytes), generation);
            let end = frame.at("body") + frame.number("length", bytes) as usize;
            let place = (at as u64).to_le_bytes();
            let covered = &bytes[frame.at("generation")..end];
            assert_eq!(frame.number("crc", bytes), crc(&[&place, covered]));
            last = last.max(frame.number("number", bytes));
            assert!(frame.number("synced", bytes) < frame.number("number", bytes));
            operations += operations_in(&bytes[frame.at("body")..end]);
            at += end.next_multiple_of(8);
        }
    }
    assert!(
        last > 10 && operations > 100,
        "{last} frames, {operations} operations"
    );
}

fn operations_in(mut body: &[u8]) -> usize {
    let mut operations = 0;
    while !body.is_empty() {
        let mut word = || u32::from_le_bytes(*body.split_off(..4).unwrap().first_chunk().unwrap());
        let key = word();
        let length = match key >> 31 {
            0 => key + word(),
            _ => key & !(1 << 31),
        };
        body = &body[length as usize..];
        operations += 1;
    }
    operations
}

#[test]
fn the_watermark_is_written_as_the_page_says() {
    let sections = sections();
    let slot = Layout::of(&sections, "The watermark");
    let home = restored(VERSION);
    let data = home.path().join("data");
    let file = fs::read(data.join("wal/fence")).unwrap();
    let text = &sections["The watermark"];
    assert!(text.contains("offsets 0 and 4096"));
    let segments = segments(&sections, &data);
    let newest = segments.values().last().unwrap();
    let store = Layout::of(&sections, "Segment header").bytes("store", newest);
    for at in [0, 4096] {
        let bytes = &file[at..];
        assert!(slot.has_magic(bytes));
        assert_eq!(slot.number("version", bytes), slot.version());
        let (head, id) = (slot.at("store"), slot.at("crc2"));
        let before = &bytes[..slot.at("crc")];
        let behind = &bytes[slot.at("number")..head];
        assert_eq!(slot.number("crc", bytes), crc(&[before, &[0; 4], behind]));
        assert_eq!(slot.number("crc2", bytes), crc(&[&bytes[..id]]));
        assert_eq!(slot.bytes("store", bytes), store);
    }
}

#[test]
fn keys_and_records_are_written_as_the_page_says() {
    let sections = sections();
    let record = Layout::of(&sections, "Records");
    let kinds: BTreeMap<_, _> = rows(&sections["Records"])
        .into_iter()
        .filter_map(|(kind, cells)| Some((kind, cells[0].parse::<u8>().ok()?)))
        .collect();
    let numbers: BTreeSet<_> = kinds.values().copied().collect();
    assert!(numbers.into_iter().eq(1..=15), "{kinds:?}");
    let keys = rows(&sections["Keys"]);
    let own = rows(&sections["The store's own records"]);
    let home = restored(VERSION);
    let store = SledStore::open(home.path().join("data")).unwrap();
    let mut met = BTreeSet::new();
    for pair in store.scan(&[0], &[0xff]) {
        let (key, value) = pair.unwrap();
        let tag = char::from(key[0]).to_string();
        let [_, bytes, kind, ..] = &keys[&tag][..] else {
            panic!("{tag} is not in the table")
        };
        match bytes.split_once(" + n") {
            None => assert_eq!(key.len(), bytes.parse::<usize>().unwrap(), "{tag}"),
            Some((fixed, _)) => assert!(key.len() > fixed.parse().unwrap(), "{tag}"),
        }
        let kind = match &*tag {
            "m" => &own[std::str::from_utf8(&key).unwrap()][0],
            _ => kind,
        };
        assert_eq!(value[0], 0xc4);
        assert_eq!(record.said("magic"), "0xC4");
        assert_eq!(record.number("version", &value), record.version());
        assert_eq!(
            record.number("kind", &value),
            u64::from(kinds[kind]),
            "{tag}"
        );
        let (kind, body) = (record.bytes("kind", &value), &value[record.at("body")..]);
        assert_eq!(record.number("crc", &value), crc(&[kind, body]), "{tag}");
        assert!(value.len() <= 7_500);
        met.insert(tag);
    }
    // What is not in it: a delay and a point in time that wait (one of the two is), a counter, and what
    // is to be deleted.
    let all = ["b", "d", "e", "i", "k", "m", "p", "q", "r", "s", "w"];
    let missing: Vec<_> = all.iter().filter(|tag| !met.contains(**tag)).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are not in the golden store"
    );
    for (text, section) in [
        ("| a record | 7,500 bytes |", "Sizes"),
        ("| a body, and a piece | 7,493 bytes |", "Sizes"),
        ("A record has at most 7,500 bytes.", "Records"),
    ] {
        assert!(sections[section].contains(text), "{text}");
    }
}

#[test]
fn versions_and_exports_are_as_the_page_says() {
    let sections = sections();
    let versions = rows(&sections["Versions"]);
    let said = |what: &str| versions[what][0].parse::<u64>().unwrap();
    let of = |heading| Layout::of(&sections, heading).version();
    assert_eq!(said("segment"), of("Segment header"));
    assert_eq!(
        said("watermark, and with redb the tables"),
        of("The watermark")
    );
    assert_eq!(said("record"), of("Records"));
    assert_eq!(said("frame"), 1);

    let mut text = Vec::new();
    persistence::export(&MemoryStore::new(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let head = text.lines().next().unwrap();
    assert!(sections["Exports"].contains(head), "{head}");
    assert_eq!(said("export"), 1);
}

/// An id's parts stand where the page says.
#[test]
fn an_id_ends_in_forty_bits_of_its_node() {
    let home = restored(VERSION);
    let store = SledStore::open(home.path().join("data")).unwrap();
    let result = store.scan(b"r", b"s").next().unwrap().unwrap().0;
    let root = u128::from_be_bytes(result[1..].try_into().unwrap());
    assert_eq!(root & ((1 << 40) - 1), 0, "the root is node 0");
    assert_eq!((root >> 76 & 0xf, root >> 62 & 3), (7, 2));
    assert_eq!(
        root >> 80,
        1_800_000_000_000,
        "when it was submitted, in ms"
    );
}
