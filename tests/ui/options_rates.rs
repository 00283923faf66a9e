use chordal::prelude::*;

#[task(rate_limit = "10/m", burst = 10, limit = "stripe")]
async fn fine() {}

#[task(rate_limit = 10)]
async fn number() {}

#[task(rate_limit = "10")]
async fn no_period() {}

#[task(rate_limit = "0.5/s")]
async fn decimal() {}

#[task(rate_limit = "0/s")]
async fn none() {}

#[task(rate_limit = "10/min")]
async fn unit() {}

#[task(rate_limit = "10/0s", limit = "")]
async fn no_time() {}

#[task(burst = 5)]
async fn burst_alone() {}

#[task(rate_limit = "10/m", burst = 11)]
async fn burst_above() {}

#[task(rate_limit = "10/m", burst = 0)]
async fn no_burst() {}

fn main() {}
