use chordal::prelude::*;

struct Shop;

impl Shop {
    const FEE: u64 = 5;

    #[task]
    async fn charge(cents: u64) -> u64 {
        cents + Self::FEE
    }
}

fn main() {}
