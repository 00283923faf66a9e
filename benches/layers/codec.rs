//! The codec and the log's frames: what is decided becomes bytes, and comes back.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

use crate::done;
use crate::persistence::Batch;
use crate::persistence::records::codec::{MAX_RECORD, Packing, segment_counts, segment_records};
use crate::persistence::store::wal::frame::{self, Frame, Stamp};

const OUTCOMES: u64 = 1_000;
const KEY: &[u8] = b"a segment's key";

/// What the members of one group did in one commit.
pub(crate) fn segments(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segments of 1,000 outcomes");
    group.throughput(Throughput::Elements(OUTCOMES));
    let records: Vec<_> = (0..OUTCOMES).map(done).collect();
    let pack = || {
        let mut packing = Packing::default();
        records.iter().for_each(|record| packing.push(record));
        packing.finish()
    };
    group.bench_function("pack", |bencher| bencher.iter(pack));

    let segments = pack();
    let read = || segments.iter().map(|segment| segment_records(KEY, segment));
    let again: Result<Vec<_>, _> = read().collect();
    assert_eq!(again.expect("segments").concat(), records);
    group.bench_function("read back", |bencher| {
        bencher.iter(|| read().for_each(|records| drop(black_box(records))));
    });
    group.bench_function("count", |bencher| {
        bencher.iter(|| {
            let count = |segment: &Vec<u8>| segment_counts(KEY, segment).expect("a segment").0;
            assert_eq!(segments.iter().map(count).sum::<u32>(), OUTCOMES as u32);
        });
    });
    group.finish();
}

/// One commit in the log: as large as one segment is at most.
pub(crate) fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame of one segment");
    group.throughput(Throughput::Bytes(MAX_RECORD as u64));
    let stamp = Stamp {
        generation: 1,
        seq: 1,
        synced: 0,
    };
    let mut batch = Batch::new();
    batch.put(KEY, vec![7; MAX_RECORD]);
    let mut log = Vec::new();
    group.bench_function("append", |bencher| {
        bencher.iter(|| {
            log.clear();
            frame::append(&mut log, 0, stamp, &batch);
        });
    });
    let again = || Frame::at(&log, 0, stamp.generation).and_then(|frame| frame.batch());
    assert!(
        again() == Some(batch),
        "a frame that was written can be read"
    );
    group.bench_function("read back", |bencher| bencher.iter(again));
    group.finish();
}
