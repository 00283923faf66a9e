//! cargo run --example nested
//!
//! Canvases within canvases: a chord of chords of chains, typed all the way down.

use chordal::prelude::*;

#[task]
async fn price(item: String) -> u64 {
    item.len() as u64 * 100
}

#[task]
async fn discount(cents: u64, percent: u64) -> u64 {
    cents - cents * percent / 100
}

#[task]
async fn subtotal(prices: Vec<u64>, category: String) -> (String, u64) {
    (category, prices.iter().sum())
}

#[task]
async fn invoice(categories: Vec<(String, u64)>) -> String {
    let total: u64 = categories.iter().map(|(_, cents)| cents).sum();
    format!("{categories:?}, {total} cents in all")
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    let app = App::in_memory()
        .tasks(tasks![price, discount, subtotal, invoice])
        .start()
        .await?;
    // A group in a chain becomes a chord by itself: `|` is all there is to write.
    let category = |name: &str, items: [&'static str; 2]| {
        group(items.map(|item| price.s(item.into()) | discount.partial(10)))
            | subtotal.partial(name.into())
    };
    let shop = [
        category("fruit", ["apple", "fig"]),
        category("tools", ["saw", "hammer"]),
    ];
    let total = app.apply_async(group(shop) | invoice.partial()).await?;
    println!("{}", total.await?);
    app.shutdown().await
}
