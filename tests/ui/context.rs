use chordal::prelude::*;

#[task]
async fn second(x: i64, ctx: &TaskContext) {}

#[task]
async fn twice(ctx: &TaskContext, again: &TaskContext) {}

#[task]
async fn owned(ctx: TaskContext) {}

#[task]
async fn exclusive(ctx: &mut TaskContext) {}

#[task]
async fn forever(ctx: &'static chordal::TaskContext) {}

fn main() {}
