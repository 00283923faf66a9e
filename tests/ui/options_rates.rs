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

#[task(rate_limit = "5/s", limit_by = "_tenant", concurrency = 2, concurrency_by = "_user")]
async fn keyed(_tenant: String, _user: u64) {}

#[task(rate_limit = "5/s", limit_by = "tenants")]
async fn no_such_parameter(_tenant: String, _user: u64) {}

#[task(concurrency = 1, concurrency_by = "_ctx")]
async fn the_context(_ctx: &TaskContext) {}

#[task(limit_by = "tenant")]
async fn key_without_rate(_tenant: String) {}

#[task(concurrency_by = "tenant")]
async fn key_without_concurrency(_tenant: String) {}

#[task(concurrency = 0)]
async fn none_at_once() {}

#[task(concurrency = 1, concurrency_by = 5)]
async fn key_is_a_number() {}

fn main() {}
