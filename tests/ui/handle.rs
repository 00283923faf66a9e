use std::sync::Arc;

use chordal::prelude::*;

struct Pool;

#[task]
async fn charge(order: u64, pool: Arc<Pool>) -> Result<u64, TaskError> {
    let _ = pool;
    Ok(order)
}

#[task]
async fn connect(_url: String) -> Result<Arc<Pool>, TaskError> {
    Ok(Arc::new(Pool))
}

fn main() {}
