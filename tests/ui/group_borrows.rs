use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {
    let xs = vec![1, 2, 3];
    let _: Signature<(), Vec<i64>> = group(xs.iter().map(|x| add.s(*x, 1)));
}
