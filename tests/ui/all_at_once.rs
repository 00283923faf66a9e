use chordal::prelude::*;

#[task(time_limit = "soon", priority = 11, retries = 3)]
fn charge<T>(order: &str, (a, b): (i64, i64), ctx: &TaskContext) -> impl Into<i64> {
    1
}

fn main() {}
