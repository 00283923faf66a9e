use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn add(x: f64, y: f64) -> f64 {
    x + y
}

fn main() {}
