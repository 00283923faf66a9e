use chordal::prelude::*;

#[task]
async fn total(items: Vec<i64>) -> i64 {
    items.iter().sum()
}

#[task]
async fn pay(order: u64, total: i64) -> i64 {
    total + order as i64
}

#[task(blocking)]
fn refund(total: i64) -> Result<i64, TaskError> {
    Ok(-total)
}

fn main() {
    let total = total.s(vec![1]);
    let _ = [1, 2].map(|total| total + 1);
}
