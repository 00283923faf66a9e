//! The id of a store, in stores of every version. Files exchanged between stores are tested in
//! `fault_tests/exchange.rs`.

use super::*;
use crate::persistence::store::fs::identity::{Identity, StoreId};
use crate::persistence::store::fs::watermark::Watermark;

fn identity(home: &Path) -> Option<Identity> {
    SledBase::open(home).unwrap().identity().unwrap()
}

/// Returns the id of each segment, in the order of their generations.
fn ids(home: &Path) -> Vec<(u64, Option<StoreId>)> {
    let headers = segments(home).into_iter().map(|name| {
        let header = segment::SegmentHeader::of(&home.join("wal").join(name)).unwrap();
        header.map(|header| (header.generation, header.id)).unwrap()
    });
    let mut ids: Vec<_> = headers.collect();
    ids.sort_by_key(|(generation, _)| *generation);
    ids
}

fn watermark_id(home: &Path) -> Option<StoreId> {
    Watermark::read(home.join("wal/fence")).unwrap().id()
}

fn write(home: &Path, name: &str) {
    let store = SledStore::open(home).unwrap();
    store.apply(batch(&[(name, b"yes")])).unwrap();
    store.sync(Durability::Power).unwrap();
}

#[test]
fn a_store_has_one_id_in_all_of_its_files_from_its_first_write_on() {
    let home = tempdir().unwrap();
    drop(SledStore::open(home.path()).unwrap());
    assert_eq!(identity(home.path()), None);
    for session in 1..4 {
        write(home.path(), &format!("{session}"));
        let ours = identity(home.path()).unwrap();
        assert_eq!(ours.since, 1);
        let all = ids(home.path());
        assert_eq!(all.len(), session);
        assert!(all.iter().all(|(_, id)| *id == Some(ours.id)));
        assert_eq!(watermark_id(home.path()), Some(ours.id));
    }
    let other = filled();
    assert_ne!(identity(other.path()), identity(home.path()));
}

#[test]
fn a_store_of_an_earlier_version_gets_its_id_when_it_is_first_written_to() {
    for version in [1, 2] {
        let home = filled();
        write(home.path(), "more");
        make_older(home.path(), version);
        holds_kept(home.path());
        assert_eq!(
            (identity(home.path()), watermark_id(home.path())),
            (None, None)
        );

        write(home.path(), "most");
        let ours = identity(home.path()).unwrap();
        assert_eq!(ours.since, 3);
        assert_eq!(ids(home.path()), [(1, None), (2, None), (3, Some(ours.id))]);
        assert_eq!(watermark_id(home.path()), Some(ours.id));
        holds_kept(home.path());
        let store = SledStore::open(home.path()).unwrap();
        store.checkpoint();
        assert_eq!(store.all().unwrap().len(), 3);
    }
}

#[test]
fn a_crash_anywhere_while_a_store_gets_its_id_loses_nothing() {
    let home = filled();
    make_older(home.path(), 2);
    let whole = copy(home.path());
    write(whole.path(), "more");
    let id = identity(whole.path()).unwrap();
    // sled has the id; then one slot of the watermark, or both, and then the segment.
    for slots in 0..=2 {
        let left = copy(home.path());
        SledBase::open(left.path())
            .unwrap()
            .set_identity(id)
            .unwrap();
        let named = fs::read(whole.path().join("wal/fence")).unwrap();
        change(left.path(), "wal/fence", |bytes| {
            for offset in [0, 4_096].into_iter().take(slots) {
                // With the number that the slot had.
                let number: [u8; 8] = bytes[offset + 8..offset + 16].try_into().unwrap();
                let number = u64::from_le_bytes(number);
                bytes.resize(bytes.len().max(offset + 36), 0);
                bytes[offset..offset + 36].copy_from_slice(&named[offset..offset + 36]);
                bytes[offset..offset + 16].copy_from_slice(&watermark_file::encode(2, number));
                let crc = crc32fast::hash(&bytes[offset..offset + 32]);
                bytes[offset + 32..offset + 36].copy_from_slice(&crc.to_le_bytes());
            }
        });
        holds_kept(left.path());
        write(left.path(), "again");
        assert_eq!(identity(left.path()), Some(id));
        holds_kept(left.path());
    }
}

#[test]
fn a_segment_or_watermark_without_an_id_is_refused_in_a_store_with_an_id() {
    let home = filled();
    let older = copy(home.path());
    make_older(older.path(), 2);
    for name in ["00000001.segment", "fence"] {
        let mixed = copy(home.path());
        let path = Path::new("wal").join(name);
        fs::copy(older.path().join(&path), mixed.path().join(&path)).unwrap();
        let error = SledStore::open(mixed.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::WrongStore { path, found, .. }
                if path.ends_with(name) && found == "none"),
            "{error:?}"
        );
    }
}

#[test]
fn the_error_names_the_file_and_both_ids() {
    let (home, other) = (filled(), filled());
    let name = "wal/00000001.segment";
    fs::copy(other.path().join(name), home.path().join(name)).unwrap();
    let error = SledStore::open(home.path()).unwrap_err().to_string();
    let [ours, its] = [&home, &other].map(|home| identity(home.path()).unwrap().id);
    let text =
        format!("belongs to another store: its id is {its}, and that of this store is {ours}");
    assert!(error.ends_with(&text) && error.contains(name), "{error}");
    let audit = verify_directory(home.path()).unwrap();
    assert!(
        format!("{:?}", audit.findings).contains(&text),
        "{:?}",
        audit.findings
    );
}
