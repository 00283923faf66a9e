use chordal::prelude::*;

#[task]
async fn ping() {}

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {
    let _ = ping.partial();
    let _ = add.s(1);
}
