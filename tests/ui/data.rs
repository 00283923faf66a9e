use chordal::prelude::*;

struct Pool;

#[task]
async fn after_an_argument(order: u64, pool: Data<Pool>) -> u64 {
    let _ = pool;
    order
}

#[task]
async fn before_the_context(pool: Data<Pool>, ctx: &TaskContext) -> u32 {
    let _ = pool;
    ctx.attempt()
}

#[task]
async fn lent(pool: &Data<Pool>) {
    let _ = pool;
}

#[task]
async fn with_a_default(#[default] pool: Data<Pool>) {
    let _ = pool;
}

fn main() {}
