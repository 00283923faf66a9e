//! `docs/format.md` against a golden store: each offset, length, magic number, version and kind in its
//! tables is looked up in the stored bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chordal::Clock;
use chordal::persistence::{self, MemoryStore, SledStore, Store};
use chordal::prelude::*;

use crate::golden::{VERSION, restored};
use crate::recovery::within;

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

#[tokio::test]
async fn keys_and_records_are_written_as_the_page_says() {
    let sections = sections();
    let record = Layout::of(&sections, "Records");
    let kinds: BTreeMap<_, _> = rows(&sections["Records"])
        .into_iter()
        .filter_map(|(kind, cells)| Some((kind, cells[0].parse::<u8>().ok()?)))
        .collect();
    let numbers: BTreeSet<_> = kinds.values().copied().collect();
    assert!(numbers.into_iter().eq(1..=21), "{kinds:?}");
    let keys = rows(&sections["Keys"]);
    let own = rows(&sections["The store's own records"]);
    let home = restored(VERSION);
    let golden = SledStore::open(home.path().join("data")).unwrap();
    let memory = store_with_waiting_work().await;
    let mut met = BTreeSet::new();
    let all = |store: &dyn Store| store.scan(&[0], &[0xff]).collect::<Result<Vec<_>, _>>();
    for (key, value) in all(&golden)
        .unwrap()
        .into_iter()
        .chain(all(&memory).unwrap())
    {
        let tag = char::from(key[0]).to_string();
        let [_, bytes, kind, ..] = &keys[&tag][..] else {
            panic!("{tag} is not in the table")
        };
        match bytes.split_once(" + n") {
            None => assert_eq!(key.len(), bytes.parse::<usize>().unwrap(), "{tag}"),
            Some((fixed, _)) => assert!(key.len() > fixed.parse().unwrap(), "{tag}"),
        }
        let features = "Features".to_owned();
        let uses_additions = record.number("kind", &value) == u64::from(kinds[&features]);
        let kind = match &*tag {
            "m" if key == b"m/store" && uses_additions => &features,
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
        if tag == "i" {
            let id = &value[record.at("body")..];
            assert_eq!((id.len(), id[0]), (17, 16), "an id as bytes: 16 and the id");
        }
        met.insert(tag);
    }
    // What is to be deleted (`x`) is there for a moment only.
    let tags = keys.into_keys().filter(|tag| tag.len() == 1 && tag != "x");
    assert_eq!(tags.collect::<BTreeSet<_>>(), met);
}

#[task]
async fn double(n: u64) -> u64 {
    2 * n
}

#[task]
async fn two() -> Vec<u64> {
    vec![1, 2]
}

/// Says what it does, and goes on.
#[task]
async fn says(ctx: &TaskContext) {
    ctx.progress(1, 2);
    std::future::pending().await
}

/// A store with work that waits for a point in time and for a delay, with members that were
/// numbered late, and with a task that runs and has reported.
async fn store_with_waiting_work() -> MemoryStore {
    let store = MemoryStore::new();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let builder = App::with_store(store.clone()).clock(clock.clone());
    let builder = builder
        .grace(Duration::ZERO)
        .tasks(tasks![double, two, says]);
    let app = builder.start().await.unwrap();
    let running = app.apply_async(says.s()).await.unwrap();
    while within(running.task_info()).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let hour = Duration::from_secs(3_600);
    let _ = app
        .apply_async(double.s(1).eta(clock.now() + hour))
        .await
        .unwrap();
    let _ = app.apply_async(double.s(1).countdown(hour)).await.unwrap();
    let each = app.apply_async(two.s() | double.each()).await.unwrap();
    assert_eq!(within(each.get()).await.unwrap(), [2, 4]);
    app.shutdown().await.unwrap();
    store
}

#[test]
fn the_code_has_the_sizes_and_variants_of_the_page() {
    let sections = sections();
    let code = code();
    for (what, cells) in rows(&sections["Sizes"]) {
        let [limit, constant] = &cells[..] else {
            panic!("{what} has no constant")
        };
        let Some(limit) = limit.split(' ').next().and_then(number) else {
            continue; // the head of the table
        };
        let values: Vec<_> = constants(&code, constant).collect();
        assert!(
            values.contains(&limit),
            "{what}: {constant} is {values:?} in the code"
        );
    }
    for (name, cells) in rows(&sections["Encoding"]) {
        let name = name.split([':', ' ']).next().unwrap();
        let said: Vec<_> = cells[0].split(", ").collect();
        if said.len() == 1 || !name.starts_with(char::is_uppercase) {
            continue; // of the other table
        }
        let found = code.iter().flat_map(|text| variants(text, name));
        let found: Vec<_> = found.collect();
        assert!(found.contains(&said), "{name} is {found:?} in the code");
    }
}

/// The text of all files of the library.
fn code() -> Vec<String> {
    let mut texts = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => texts.push(fs::read_to_string(path).unwrap()),
            }
        }
    }
    texts
}

/// `7,500`, `7_500`, `2^20` or `1 << 20`.
fn number(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace([',', '_'], "").parse::<u64>().ok();
    if let Some(power) = text.strip_prefix("2^") {
        return Some(1 << plain(power)?);
    }
    match text.split_once(" << ") {
        Some((one, by)) => Some(plain(one)? << plain(by)?),
        None => plain(text),
    }
}

/// The values of all constants of this name.
fn constants<'a>(code: &'a [String], name: &'a str) -> impl Iterator<Item = u64> + 'a {
    code.iter().filter_map(move |text| {
        let (_, rest) = text.split_once(&format!("const {name}: "))?;
        let value = rest.split_once(" = ")?.1.split_once(';')?.0;
        let of = |text| number(text).or_else(|| constants(code, text).next());
        match value.split_once(" - ") {
            Some((all, less)) => Some(of(all)? - constants_beside(text, less)?),
            None => of(value),
        }
    })
}

/// The value of a constant in the same file.
fn constants_beside(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(&format!("const {name}: "))?;
    number(rest.split_once(" = ")?.1.split_once(';')?.0)
}

/// The variants of the stored enums of this name in a file.
fn variants<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (before, rest) = text.split_once(&format!("enum {name} {{\n"))?;
    let derived = before.rsplit_once("#[derive(")?.1;
    let body = rest.split_once("\n}")?.0;
    let is_variant = |line: &&str| {
        line.strip_prefix("    ")
            .is_some_and(|l| l.starts_with(char::is_uppercase))
    };
    let variants = body.lines().filter(is_variant);
    let names = variants.map(|line| line.trim().split([' ', '(', ',', '{']).next().unwrap());
    derived.contains("Deserialize").then(|| names.collect())
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
