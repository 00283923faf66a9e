use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

#[task]
async fn concat(texts: Vec<String>) -> String {
    texts.concat()
}

fn main() {
    let header = || group((0..4).map(|i| add.s(i, i)));
    let _ = chord(header(), concat.partial());
    let _ = header() | concat.partial();
    // A settled header gives outcomes.
    let _ = chord(header().settled(), xsum.partial());
    // One value is no list.
    let _ = chord(header(), add.partial(1));
    let _ = chord([add.s(1, 1)], concat.partial());
    // A header is a group, or its members.
    let _ = chord((add.s(1, 1), add.s(2, 2)), xsum.partial());
    let _ = chord([1, 2], xsum.partial());
    let _ = add.s(1, 1).settled();
}
