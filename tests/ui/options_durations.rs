use chordal::prelude::*;

#[task(time_limit = "")]
async fn empty() {}

#[task(time_limit = "0s")]
async fn zero() {}

#[task(retry_backoff = "30")]
async fn no_unit() {}

#[task(retry_backoff = "-1s")]
async fn negative() {}

#[task(retry_backoff = "5sec")]
async fn unknown_unit() {}

#[task(retry_backoff = "1m 30s")]
async fn spaces() {}

#[task(retry_backoff = "30s1m")]
async fn order() {}

#[task(retry_backoff = "0.5ms")]
async fn too_fine() {}

#[task(retry_backoff = "1.2.3s", retry_backoff_max = "40000d")]
async fn two() {}

fn main() {}
