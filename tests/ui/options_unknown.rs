use chordal::prelude::*;

#[task(acks_late = true, queue = "mail")]
async fn later(x: i64) -> i64 {
    x
}

#[task(retries = 3, trail = true, serde::rename = "x")]
async fn several(x: i64) -> i64 {
    x
}

#[task("shop.charge")]
async fn bare(x: i64) -> i64 {
    x
}

#[task(queue = "a", queue = "b")]
async fn twice(x: i64) -> i64 {
    x
}

#[task(blocking, queue "a")]
fn syntax(x: i64) -> i64 {
    x
}

fn main() {
    // The tasks exist all the same, so that nothing else is reported.
    let _ = (later.s(1), several.s(1), bare.s(1), twice.s(1), syntax.s(1));
}
