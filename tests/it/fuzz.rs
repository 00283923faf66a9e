//! The corpus of `fuzz/`, and mutations of it, through what reads foreign bytes.

use std::fs;
use std::path::{Path, PathBuf};

use chordal::fuzzing;
use chordal::persistence::Store;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(dir(target)).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 3, "{target} has a corpus");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn dir(target: &str) -> PathBuf {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    corpus.join(target)
}

/// What stands in for a part of the bytes.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"",
        b"{",
        b"[",
        b"\"",
        b"null",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\\ud800",
        b"\xff",
        b"\"task\":",
        b"celery.group",
        // The largest numbers there are in bincode.
        b"\xfb\xff\xff",
        b"\xfc\xff\xff\xff\xff",
        b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xfd\xff\xff\xff\xff\xff\xff\xff\x7f",
    ];
    prop_oneof![
        select(words).prop_map(<[u8]>::to_vec),
        proptest::collection::vec(any::<u8>(), 0..9),
    ]
}

/// One of these, with a few parts of it replaced, or repeated.
fn mutated(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<Index>(), 0..12_usize, pieces(), 0..4_usize);
    let edits = proptest::collection::vec(edit, 0..6);
    (select(corpus(target)), edits).prop_map(|(mut bytes, edits)| {
        for (at, length, piece, times) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            let old = bytes[at..end].repeat(times);
            bytes.splice(at..end, [old, piece].concat());
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn any_json_is_read_or_refused(bytes in mutated("celery_json")) {
        fuzzing::celery_json(&bytes);
    }

    #[test]
    fn any_record_is_read_or_refused(bytes in mutated("record")) {
        fuzzing::record(&bytes);
    }

    #[test]
    fn any_definition_is_read_or_refused(bytes in mutated("definition")) {
        fuzzing::definition(&bytes);
    }

    #[test]
    fn any_log_is_read_or_refused(bytes in mutated("log")) {
        fuzzing::log(&bytes);
    }
}

#[test]
fn the_corpus_is_read() {
    for (target, read) in [
        ("celery_json", fuzzing::celery_json as fn(&[u8])),
        ("record", fuzzing::record),
        ("definition", fuzzing::definition),
        ("log", fuzzing::log),
    ] {
        corpus(target).iter().for_each(|bytes| read(bytes));
    }
}

/// Writes the corpus of all targets but `celery_json`'s from a store.
pub(crate) fn write_corpus(home: &Path) {
    /// As `fuzzing::record` counts them.
    const KINDS: [&[u8]; 16] = [
        b"m/store",
        b"m/life",
        b"m/pending",
        b"m/last-swept",
        b"m/importing",
        b"b",
        b"w",
        b"d",
        b"s",
        b"p",
        b"r",
        b"c",
        b"i",
        b"k",
        b"x",
        b"m/clock",
    ];
    const PER_KIND: usize = 6;
    let write = |target: &str, name: String, bytes: &[u8]| {
        fs::write(dir(target).join(name), bytes).unwrap();
    };
    let segments = fs::read_dir(home.join("wal")).unwrap();
    let last = segments.map(|entry| entry.unwrap().path()).max().unwrap();
    let segment = fs::read(last).unwrap();
    // What is behind the head, a page.
    for (n, part) in segment[4_096..].chunks(3_000).take(4).enumerate() {
        write("log", format!("segment-{n}"), part);
    }
    let store = chordal::persistence::SledStore::open(home).unwrap();
    for (number, kind) in (0_u8..).zip(KINDS) {
        let mut sizes = Vec::new();
        let end = [kind, b"\xff"].concat();
        for (_, record) in store.scan(kind, &end).map(Result::unwrap) {
            // One of each size: the others are like it.
            if sizes.len() < PER_KIND && !sizes.contains(&record.len()) && record.len() < 2_000 {
                sizes.push(record.len());
                let name = String::from_utf8_lossy(kind).replace("m/", "");
                let body = [&[number], &record[7..]].concat();
                let name = format!("{name}-{}", sizes.len());
                write("record", name.clone(), &body);
                if kind == b"w" || kind == b"d" {
                    write("definition", name, &record[7..]);
                }
            }
        }
    }
}
