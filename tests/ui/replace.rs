use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn goes_on(ctx: &TaskContext) -> Result<i64, TaskError> {
    ctx.replace(add.s(1, 2))?;
    Ok(5)
}

#[task]
async fn takes(ctx: &TaskContext) -> Result<i64, TaskError> {
    let sum: i64 = ctx.replace(add.s(1, 2))?;
    Ok(sum)
}

#[task]
async fn drops(ctx: &TaskContext) -> Result<i64, TaskError> {
    ctx.replace(add.s(1, 2));
    Ok(5)
}

#[task]
async fn other_type(ctx: &TaskContext) -> Result<String, TaskError> {
    ctx.replace(add.s(1, 2))
}

#[task]
async fn other_error(ctx: &TaskContext) -> Result<i64, String> {
    return ctx.replace(add.s(1, 2));
}

fn main() {}
