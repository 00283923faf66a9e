//! cargo bench --bench store
//!
//! One commit as the engine makes it: a segment of 7.5 KB, applied and synced, at each durability;
//! and the same bytes appended to a plain file with one `fdatasync`, the floor under it.

#![allow(missing_docs)] // criterion_group! makes a public function

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use chordal::Durability;
use chordal::persistence::{Batch, SledStore, Store};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SEGMENT: usize = 7_500;

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit of one segment");
    group.throughput(Throughput::Bytes(SEGMENT as u64));
    let directory = tempfile::tempdir().expect("a temporary directory");

    let mut file = File::create(directory.path().join("floor")).expect("a file");
    group.bench_function("plain file, fdatasync", |bencher| {
        bencher.iter(|| {
            file.write_all(&[7; SEGMENT]).expect("a write");
            file.sync_data().expect("an fdatasync");
        });
    });

    let store = SledStore::open(directory.path().join("store")).expect("a store");
    let mut number = 0u64;
    for durability in [Durability::Power, Durability::Process, Durability::Buffered] {
        group.bench_function(format!("sled, {durability:?}"), |bencher| {
            bencher.iter(|| {
                number += 1;
                let mut batch = Batch::new();
                batch.put(number.to_be_bytes(), vec![7; SEGMENT]);
                store.apply(batch).expect("a write");
                store.sync(durability).expect("a sync");
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = commit
}
criterion_main!(benches);
