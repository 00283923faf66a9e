use chordal::prelude::*;

struct Shop;

impl Shop {
    #[task]
    async fn charge(cents: u64) -> u64 {
        cents
    }
}

fn main() {}
