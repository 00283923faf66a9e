use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn shout(text: String) -> String {
    text.to_uppercase()
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

fn main() {
    let _ = add.s(2, 2) | shout.partial();
    // A complete signature takes nothing; `si` would ignore what comes.
    let _ = add.s(2, 2) | add.s(1, 1);
    let _ = add.si(2, 2) | xsum.partial();
    let _ = add.s(2, 2) | chain([shout.partial()]);
    let _ = chain([xsum.partial()]);
    let _ = add.s(2, 2) | add.each(1);
    let _ = add.s(2, 2) | add;
}
