use chordal::prelude::*;

#[task]
async fn text(x: i64) -> &'static str {
    "x"
}

#[task]
async fn borrowed(ctx: &TaskContext) -> std::borrow::Cow<'_, str> {
    "x".into()
}

#[task(blocking)]
fn future(x: i64) -> impl Future<Output = i64> {
    async move { x }
}

#[task]
async fn inside(x: i64) -> Result<Vec<&'static str>, TaskError> {
    Ok(vec![])
}

fn main() {}
