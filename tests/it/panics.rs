//! A panic stays in its task, wherever it comes from: in the body, in what the body takes, gives or
//! fails with, or in what is dropped when it has ended.

use std::fmt;
use std::panic::panic_any;
use std::time::Duration;

use chordal::prelude::*;
use chordal::{Error, FailureKind, Id};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::recovery::within;

/// Panics when it is dropped, but not while another panic is on its way: that would end the process,
/// as it does in any program.
#[derive(Serialize, Deserialize)]
struct Dropped(u64);

impl Drop for Dropped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

struct Unreadable;

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("read")
    }
}

impl Serialize for Unreadable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("written")
    }
}

impl<'de> Deserialize<'de> for Unwritable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("said")
    }
}

impl std::error::Error for Unspeakable {}

#[task(name = "panics.body")]
async fn in_the_body() -> u64 {
    panic!("body")
}

#[task(name = "panics.blocking", blocking)]
fn on_a_thread() -> u64 {
    panic!("thread")
}

#[task(name = "panics.payload")]
async fn payload() -> u64 {
    panic_any(Dropped(0))
}

#[task(name = "panics.argument_dropped")]
async fn argument_dropped(_one: Dropped) -> u64 {
    1
}

#[task(name = "panics.argument_read")]
async fn argument_read(_one: Unreadable) -> u64 {
    1
}

#[task(name = "panics.result_dropped")]
async fn result_dropped() -> Dropped {
    Dropped(1)
}

#[task(name = "panics.result_written")]
async fn result_written() -> Unwritable {
    Unwritable
}

#[task(name = "panics.error")]
async fn said() -> Result<u64, TaskError> {
    Err(Unspeakable)?
}

#[task(name = "panics.error_itself")]
async fn error_itself() -> Result<u64, Unspeakable> {
    Err(Unspeakable)
}

/// Does not end; what it holds panics when it is dropped at its time limit.
#[task(name = "panics.late", time_limit = "1ms")]
async fn late() -> u64 {
    let _one = Dropped(0);
    std::future::pending().await
}

#[task(name = "panics.fine")]
async fn fine(n: u64) -> u64 {
    n
}

fn of_kind(n: u64) -> Canvas {
    match n % 10 {
        0 => in_the_body.s().into(),
        1 => on_a_thread.s().into(),
        2 => payload.s().into(),
        // (Arguments that are there when it is submitted are tried then.)
        3 => Canvas::from(fine.s(n)) | Canvas::task("panics.argument_dropped", ()),
        4 => Canvas::from(fine.s(n)) | Canvas::task("panics.argument_read", ()),
        5 => result_dropped.s().into(),
        6 => result_written.s().into(),
        7 => said.s().into(),
        8 => error_itself.s().into(),
        _ => late.s().into(),
    }
}

const ALL: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_that_panic_fail_and_nobody_else_does() {
    let app = App::in_memory()
        .concurrency(4)
        .grace(Duration::ZERO)
        .tasks(tasks![
            in_the_body,
            on_a_thread,
            payload,
            argument_dropped,
            argument_read,
            result_dropped,
            result_written,
            said,
            error_itself,
            late,
            fine
        ]);
    let app = app.start().await.unwrap();
    // Beside each that panics stands one that does not.
    let members = (0..2 * ALL).map(|n| match n % 2 {
        0 => of_kind(n / 2),
        _ => fine.s(n).into(),
    });
    let all = app.apply_async(Canvas::group(members)).await.unwrap();
    let id = all.id();
    let failed = tokio::time::timeout(Duration::from_secs(300), all.get()).await;
    assert!(matches!(failed.unwrap(), Err(Error::Failed(_))));
    let members = app.async_result::<serde_json::Value>(id).await.unwrap();
    let members = members.children::<serde_json::Value>().await.unwrap();
    assert_eq!(members.len() as u64, 2 * ALL);
    for (n, member) in (0..).zip(&members).step_by(997) {
        match (n % 2, member.get().await) {
            (0, Err(Error::Failed(why))) => check((n / 2) % 10, why.kind, member.id()),
            (0, other) => panic!("{n}: {other:?}"),
            (_, value) => assert_eq!(value.unwrap(), n),
        }
    }
    assert_eq!(all.completed_count().await.unwrap(), ALL);
    println!("{ALL} trials with panics");
    // No slot is lost.
    for n in 0..10 {
        let result = app.apply_async(fine.s(n)).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), n);
    }
    app.shutdown().await.unwrap();
}

#[track_caller]
fn check(kind: u64, found: FailureKind, id: Id) {
    // The limit was there before the panic.
    let expected: &[_] = match kind {
        9 => &[FailureKind::TimeLimit, FailureKind::Panic],
        _ => &[FailureKind::Panic],
    };
    assert!(expected.contains(&found), "{id}, kind {kind}: {found:?}");
}
