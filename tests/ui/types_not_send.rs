use std::rc::Rc;

use chordal::prelude::*;

async fn elsewhere() {}

#[task]
async fn charge(order: u64) -> u64 {
    let shared = Rc::new(order);
    elsewhere().await;
    *shared
}

fn main() {}
