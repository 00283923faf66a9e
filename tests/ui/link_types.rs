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
    let _ = add.s(2, 2).link(shout.partial());
    let _ = add.s(2, 2).link(shout.s("x".into()));
    let _ = add.s(2, 2).link_error(shout.partial());
    let _ = add.si(2, 2).on_error(shout.partial());
}
