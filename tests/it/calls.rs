//! The calls of the functions of tasks, for tests of when they start.

use std::sync::LazyLock;

use tokio::sync::watch;

/// The keys of the calls so far, in order. Each test has keys of its own.
pub(crate) static CALLS: LazyLock<watch::Sender<Vec<String>>> = LazyLock::new(Default::default);

pub(crate) fn call(key: &str) {
    CALLS.send_modify(|calls| calls.push(key.to_owned()));
}

pub(crate) fn calls(key: &str) -> usize {
    CALLS.borrow().iter().filter(|of| *of == key).count()
}

/// Waits for so many calls.
pub(crate) async fn reached(key: &str, count: usize) {
    let mut all = CALLS.subscribe();
    let enough = all.wait_for(|calls| calls.iter().filter(|of| *of == key).count() >= count);
    drop(enough.await.unwrap());
}
