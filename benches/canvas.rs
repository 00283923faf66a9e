//! cargo bench --bench canvas
//!
//! Whole canvases of no-op tasks through the engine, from submission to result, over a store in
//! memory: what the engine itself costs.

#![allow(missing_docs)] // criterion_group! makes a public function

use std::time::Duration;

use chordal::prelude::*;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[task]
async fn noop(n: u64) -> u64 {
    n
}

#[task]
async fn total(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

fn canvases(criterion: &mut Criterion) {
    let start = App::in_memory().tasks(tasks![noop, total]).start();
    let app = pollster::block_on(start).expect("an app");
    let run = |canvas: Signature<(), u64>| {
        let handle = pollster::block_on(app.apply_async(canvas)).expect("a submission");
        handle.get_blocking().expect("a result")
    };

    let mut group = criterion.benchmark_group("tasks through the engine");
    group.sample_size(20);
    for n in [100, 1_000, 10_000] {
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("chord", n), |bencher| {
            bencher.iter(|| run(chord(group_of_noops(n), total.partial())));
        });
    }
    group.throughput(Throughput::Elements(100));
    group.bench_function("chain/100", |bencher| {
        bencher.iter(|| run(noop.s(1) | chain((1..100).map(|_| noop.partial()))));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("single", |bencher| bencher.iter(|| run(noop.s(1))));
    group.finish();
}

fn group_of_noops(n: u64) -> Signature<(), Vec<u64>> {
    chordal::group((0..n).map(|i| noop.s(i)))
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = canvases
}
criterion_main!(benches);
