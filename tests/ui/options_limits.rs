use chordal::prelude::*;

#[task(soft_time_limit = "45s", time_limit = "30s")]
async fn soft_above_hard() {}

#[task(soft_time_limit = "30s", time_limit = "30s")]
async fn equal() {}

fn main() {}
