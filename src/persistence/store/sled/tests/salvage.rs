//! Salvage of a damaged store, and of a sound one.

use std::collections::BTreeMap;

use super::*;
use crate::persistence::store::Finding;
use crate::persistence::store::sled::base::MARK;
use crate::persistence::store::sled::pages::Pages;

/// Returns all records in sled's file, as the pages reader finds them, and the findings.
fn pages(home: &Path) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<Finding>) {
    let mut found = BTreeMap::new();
    let mut pages = Pages::of(&home.join("sled")).unwrap();
    pages
        .leaves(|leaf| {
            let inside =
                |key: &Vec<u8>| *key >= leaf.from && (leaf.to.is_empty() || *key < leaf.to);
            found.retain(|key, _| !inside(key) || leaf.records.contains_key(MARK));
            found.extend(leaf.records);
            Ok(())
        })
        .unwrap();
    found.remove(MARK);
    (found, pages.findings)
}

/// Checks that the pages reader finds these records, and no defect.
#[track_caller]
fn check_pages(home: &Path, expected: &BTreeMap<Vec<u8>, Vec<u8>>, when: &str) {
    let (found, findings) = pages(home);
    assert!(findings.is_empty(), "{when}: {findings:#?}");
    let differs = |key: &&Vec<u8>| found.get(*key) != expected.get(*key);
    let different: Vec<_> = found
        .keys()
        .chain(expected.keys())
        .filter(differs)
        .collect();
    let names = different.iter().map(|key| String::from_utf8_lossy(key));
    assert!(
        different.is_empty(),
        "{when}: {:?}",
        names.collect::<Vec<_>>()
    );
}

/// Writes to sled as checkpoints do, with large and small records, deletions and reused segments.
fn churn(base: &SledBase, rounds: u64, map: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut noise = noise(rounds).map(|noise| noise >> 9);
    for n in 0..rounds {
        let key = noise.next().unwrap() % 2_000;
        let key = format!("{:02}/some-prefix-{key:04}", key % 7).into_bytes();
        let value = match noise.next().unwrap() % 8 {
            0 | 1 => None,
            2 => Some(vec![n as u8; 7_000]),
            size => Some(vec![n as u8; size as usize * 40]),
        };
        base.write([(&key[..], value.as_deref())]).unwrap();
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

#[test]
fn the_pages_reader_returns_the_records_that_sled_returns() {
    let home = tempdir().unwrap();
    let mut map = BTreeMap::new();
    for session in 1..=4 {
        let base = SledBase::open(home.path()).unwrap();
        base.set_mark(Mark::default()).unwrap();
        churn(&base, 2_500 * session, &mut map);
        base.settle().unwrap();
        // While sled is open, as a kill would leave its file, and after it is closed.
        check_pages(home.path(), &map, &format!("session {session}"));
        drop(base);
        check_pages(home.path(), &map, &format!("session {session}, closed"));
    }
}

#[test]
fn the_pages_reader_returns_a_change_that_ends_with_the_file() {
    let home = tempdir().unwrap();
    let mut map = BTreeMap::new();
    let base = SledBase::open(home.path()).unwrap();
    base.set_mark(Mark::default()).unwrap();
    for n in 0..40 {
        let (key, value) = (vec![n / 2], vec![n]);
        let removed = n % 2 == 1;
        base.write([(&key[..], (!removed).then_some(&value[..]))])
            .unwrap();
        match removed {
            true => map.remove(&key),
            false => map.insert(key, value),
        };
        check_pages(home.path(), &map, &format!("after write {n}"));
    }
}

#[test]
fn records_around_damage_in_sleds_file_are_read_and_the_damage_is_reported() {
    let home = tempdir().unwrap();
    let mut map = BTreeMap::new();
    let base = SledBase::open(home.path()).unwrap();
    base.set_mark(Mark::default()).unwrap();
    churn(&base, 4_000, &mut map);
    base.settle().unwrap();
    drop(base);
    let db = home.path().join("sled/db");
    let mut bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let position = used / 2 / 4096 * 4096;
    bytes[position..position + 512].fill(0xA5);
    fs::write(&db, bytes).unwrap();
    let (found, findings) = pages(home.path());
    assert!(!findings.is_empty());
    let kept = map
        .iter()
        .filter(|(key, value)| found.get(*key) == Some(value));
    assert!(kept.count() > map.len() * 9 / 10);
}

#[test]
fn any_bytes_are_read_as_pages_without_a_panic() {
    let home = tempdir().unwrap();
    let mut map = BTreeMap::new();
    let base = SledBase::open(home.path()).unwrap();
    churn(&base, 1_200, &mut map);
    base.settle().unwrap();
    drop(base);
    let db = home.path().join("sled/db");
    let sound = fs::read(&db).unwrap();
    for seed in 0..40 {
        let mut bytes = sound.clone();
        let mut noise = noise(seed).map(|noise| (noise >> 9) as usize);
        for _ in 0..200 {
            let position = noise.next().unwrap() % bytes.len();
            bytes[position] = noise.next().unwrap() as u8;
        }
        bytes.truncate(bytes.len() - noise.next().unwrap() % 5_000);
        fs::write(&db, bytes).unwrap();
        pages(home.path());
    }
}
