use chordal::prelude::*;

#[task(time_limit = "soon", priority = 11, soft_time_limit = "1s")]
fn charge<T>(order: &str, (a, b): (i64, i64), ctx: &TaskContext) -> impl Into<i64> {
    1
}

fn main() {}
