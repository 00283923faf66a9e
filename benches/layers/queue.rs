//! The dispatcher's queue: who gets the next slot.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

use crate::canvas::admission::queue::Queue;

const TASKS: u64 = 10_000;
const SLOTS: usize = 100;

/// Tasks that ask for more slots than there are, then each slot handed on until nobody waits.
pub(crate) fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue of 10,000");
    group.throughput(Throughput::Elements(TASKS));
    for (name, priorities) in [("one priority", 1), ("ten priorities", 10)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut queue = Queue::new(SLOTS);
                // Seven and ten have no common factor: neighbours differ, and all ten come up.
                let request = |task| queue.request((task * 7 % priorities) as u8, task);
                let mut started = (0..TASKS).filter_map(request).count();
                assert_eq!(started, SLOTS);
                while let Some(task) = {
                    queue.put_back();
                    queue.next()
                } {
                    black_box(task);
                    started += 1;
                }
                assert_eq!(started as u64, TASKS);
            });
        });
    }
    group.finish();
}
