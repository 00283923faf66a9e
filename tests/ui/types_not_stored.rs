use chordal::prelude::*;

struct Order;

#[task]
async fn charge(order: Order, cents: u64) -> u64 {
    drop(order);
    cents
}

#[task]
async fn find(_id: u64) -> Order {
    Order
}

fn main() {}
