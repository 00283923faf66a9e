use chordal::prelude::*;

#[task(name = "", queue = " ")]
async fn empty() {}

#[task(name = 5, queue = shop, priority = "5", max_retries = "3", time_limit = 45)]
async fn kinds() {}

#[task(name, queue("a"), priority, max_retries(3), time_limit("1s"))]
async fn shapes() {}

#[task(priority = 10)]
async fn too_high() {}

#[task(priority = -1, max_retries = -1)]
async fn negative() {}

#[task(max_retries = 4294967296)]
async fn too_many() {}

#[task(blocking = true)]
fn flag() {}

fn main() {}
