use chordal::prelude::*;

#[task]
async fn order(#[default] x: i64, y: i64) {}

#[task]
async fn last(#[rest] all: Vec<i64>, y: i64) {}

#[task]
async fn list(#[rest] all: i64) {}

#[task]
async fn both(
    #[default]
    #[rest]
    all: Vec<i64>,
) {
}

#[task]
async fn pair(#[default = 3] x: i64) {}

#[task]
async fn two(#[default(1, 2)] x: i64) {}

#[task]
async fn count(#[rest(3)] all: Vec<i64>) {}

#[task]
async fn context(#[default] ctx: &TaskContext) {}

#[task]
async fn wrong(#[default("three")] _x: i64) {}

#[task]
async fn none(#[default] _at: std::num::NonZero<u8>) {}

fn main() {}
