use chordal::prelude::*;

#[task]
struct Charge;

#[task]
mod tasks {}

fn main() {
    let _ = Charge;
}
