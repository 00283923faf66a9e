//! cargo bench --bench layers
//!
//! The layers below the actors, with nothing around them: the machines that decide, the codec and
//! the log's frames that remember.
//!
//! What is measured here is the crate's own and not public, and should not become so for being
//! measured. Since these layers know nothing of what is above them (`tests/it/tidy.rs` holds that),
//! their source compiles as a part of this program, under the same paths.

#![allow(missing_docs)] // criterion_group! makes a public function

mod codec;
mod machines;
mod queue;

// Of the layers, what is not measured is not used.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../src/canvas/mod.rs"]
mod canvas;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/error.rs"]
mod error;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../src/persistence/mod.rs"]
mod persistence;
#[allow(dead_code)]
#[path = "../../src/split_mix.rs"]
mod split_mix;
#[allow(dead_code, unreachable_pub)]
mod testing;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use canvas::machine::{ChildProgress, Index, Record};
use canvas::outcome::{Outcome, Value};
use canvas::payload::Payload;

/// What a member that gives its own index gives.
fn value(index: Index) -> Value {
    Value::Inline(Payload::encode(&index).expect("a number can be encoded"))
}

/// That a member has ended, as its barrier records it.
fn done(index: Index) -> Record {
    Record::Child {
        index,
        change: ChildProgress::Done(Outcome::Success(value(index))),
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = machines::barrier, machines::group, machines::task, queue::queue, codec::segments, codec::frames
}
criterion_main!(benches);
