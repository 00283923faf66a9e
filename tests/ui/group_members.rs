use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn shout(text: String) -> String {
    text.to_uppercase()
}

fn main() {
    // Different inputs.
    let _ = group!(add.partial(1), shout.partial());
    let _ = group!(add.s(1, 1), add.partial(1));
    let _ = add.s(1, 1) | group!(add.partial(1), shout.partial());
    // A list has members of one type.
    let _ = group([add.s(1, 1), shout.s("x".into())]);
    let _ = group(add.s(1, 1));
    let _ = group([1, 2, 3]);
}
