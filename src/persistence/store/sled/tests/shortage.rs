//! A temporary shortage of file descriptors or threads. `fault_tests/descriptors.rs` has a real
//! one.

use super::*;

/// `EMFILE`
const NO_DESCRIPTOR: i32 = rustix::io::Errno::MFILE.raw_os_error();
const LIMIT: usize = 20_000;

fn put(store: &SledStore, n: u32) -> Result<(), StoreError> {
    store.apply(batch(&[(&format!("{n}"), &[7; 1_000])]))?;
    store.sync(Durability::Power)
}

#[test]
fn a_checkpoint_that_cannot_start_is_postponed_and_commits_continue() {
    for is_data_dir in [false, true] {
        let home = filled();
        let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
        put(&store, 0).unwrap();
        let fail_with = |errno| match is_data_dir {
            true => store.wal.shared.data_dir.fail_with(errno),
            false => store.wal.writer.lock().log.dir().fail_with(errno),
        };
        fail_with(Some(NO_DESCRIPTOR));
        for n in 1..100 {
            put(&store, n).unwrap();
        }
        let has_started = || store.wal.writer.lock().checkpoint.is_some();
        assert!(
            !has_started() && store.wal.shared.layers.memtables.read().active().size() > 3 * LIMIT
        );
        store.room().unwrap();
        let left = copy(home.path());
        assert_eq!(
            SledStore::open(left.path()).unwrap().all().unwrap().len(),
            101
        );

        fail_with(None);
        put(&store, 100).unwrap();
        assert!(has_started());
        drop(store);
        let store = SledStore::open(home.path()).unwrap();
        assert_eq!(store.all().unwrap().len(), 102);
    }
}

#[test]
fn while_no_checkpoint_can_start_memory_is_bounded_and_applied_batches_wait() {
    let home = filled();
    let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
    put(&store, 0).unwrap();
    store
        .wal
        .writer
        .lock()
        .log
        .dir()
        .fail_with(Some(NO_DESCRIPTOR));
    let (n, error) = (1..10_000)
        .find_map(|n| put(&store, n).err().map(|error| (n, error)))
        .unwrap();
    assert!(matches!(&error, StoreError::Exhausted { .. }), "{error:?}");
    let size = store.wal.shared.layers.memtables.read().active().size();
    assert!(size < (POSTPONED_LIMITS + 1) * LIMIT, "{size}");
    for durability in [Durability::Power, Durability::Process, Durability::Buffered] {
        let error = store.sync(durability).unwrap_err();
        assert!(error.is_temporary(), "{error:?}");
    }
    assert!(store.get(b"kept").unwrap().is_some(), "reads go on");

    store.wal.writer.lock().log.dir().fail_with(None);
    store.sync(Durability::Power).unwrap();
    assert!(store.wal.writer.lock().checkpoint.is_some());
    put(&store, n + 1).unwrap();
    drop(store);
    let store = SledStore::open(home.path()).unwrap();
    assert_eq!(store.all().unwrap().len() as u32, n + 3);
}

#[test]
fn a_first_write_without_a_descriptor_may_be_retried() {
    for home in [tempdir().unwrap(), filled()] {
        let store = SledStore::open(home.path()).unwrap();
        let before = store.all().unwrap().len();
        // Only the directory of the log is opened by the first write.
        let log = home.path().join("wal");
        files::make_dir(&log).unwrap();
        crate::persistence::store::fs::dir::fail_openings_of(&log, Some(NO_DESCRIPTOR));
        for _ in 0..2 {
            let error = store.apply(batch(&[("k", b"v")])).unwrap_err();
            assert!(matches!(&error, StoreError::Exhausted { .. }), "{error:?}");
            assert_eq!(store.get(b"k").unwrap(), None);
        }
        crate::persistence::store::fs::dir::fail_openings_of(&log, None);
        put(&store, 1).unwrap();
        drop(store);
        let store = SledStore::open(home.path()).unwrap();
        assert_eq!(store.all().unwrap().len(), before + 1);
    }
}

#[test]
fn an_interrupted_checkpoint_is_postponed_and_resumed_before_the_next() {
    for in_a_backup in [false, true] {
        let home = filled();
        let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
        (0..10).for_each(|n| put(&store, n).unwrap());
        let mut writer = store.wal.writer.lock();
        let checkpoint = store.wal.freeze(&mut writer, 0).unwrap();
        // The checkpoint finds no descriptor to list the files that sled has put into its
        // directory.
        files::fail_listings(Some(NO_DESCRIPTOR));
        store
            .wal
            .finish_checkpoint(&mut writer, checkpoint.run())
            .unwrap_err();
        assert!(writer.postponed.is_some());
        drop(writer);
        // Commits continue, and none is in memory alone.
        (10..100).for_each(|n| put(&store, n).unwrap());
        let copies = tempdir().unwrap();
        let to = copies.path().join("copy");
        assert!(store.backup(&to).unwrap_err().is_temporary());
        assert!(!to.exists());
        let left = copy(home.path());
        files::fail_listings(None);
        assert_eq!(
            SledStore::open(left.path()).unwrap().all().unwrap().len(),
            101
        );

        match in_a_backup {
            true => store.backup(&to).unwrap(),
            false => put(&store, 100).unwrap(),
        }
        assert!(store.wal.writer.lock().postponed.is_none());
        assert_eq!(
            store.all().unwrap().len(),
            if in_a_backup { 101 } else { 102 }
        );
        let all = store.all().unwrap();
        drop(store);
        let other = if in_a_backup { &to } else { home.path() };
        assert_eq!(SledStore::open(other).unwrap().all().unwrap(), all);
    }
}

#[test]
fn without_a_thread_a_checkpoint_runs_on_the_committing_thread() {
    let home = filled();
    let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
    wal::tests::NO_THREADS.set(true);
    let epoch = || store.wal.shared.layers.memtables.read().epoch;
    let before = epoch();
    for n in 0..200 {
        put(&store, n).unwrap();
        assert!(store.wal.writer.lock().checkpoint.is_none());
    }
    wal::tests::NO_THREADS.set(false);
    assert!(epoch() > before + 3, "several were run");
    assert!(
        segments(home.path()).len() <= 3,
        "{:?}",
        segments(home.path())
    );
    drop(store);
    assert_eq!(
        SledStore::open(home.path()).unwrap().all().unwrap().len(),
        201
    );
}
