use chordal::prelude::*;

struct Oops;

#[task]
async fn returns(order: u64) -> Result<u64, Oops> {
    Ok(order)
}

fn oops() -> Result<u64, Oops> {
    Err(Oops)
}

#[task]
async fn question_mark(order: u64) -> Result<u64, TaskError> {
    Ok(oops()? + order)
}

#[task]
async fn text(order: u64) -> Result<u64, TaskError> {
    Err("no such order".to_owned())?;
    Ok(order)
}

fn anyhow() -> anyhow::Result<u64> {
    Ok(1)
}

#[task]
async fn boxed(order: u64) -> Result<u64, TaskError> {
    Ok(anyhow()? + order)
}

fn main() {}
