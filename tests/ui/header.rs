use chordal::prelude::*;

#[task]
fn plain(x: i64) -> i64 {
    x
}

#[task(blocking)]
async fn blocking_async(x: i64) -> i64 {
    x
}

#[task]
async unsafe fn not_safe(x: i64) -> i64 {
    x
}

#[task(blocking)]
const fn constant(x: i64) -> i64 {
    x
}

#[task(blocking)]
extern "C" fn foreign(x: i64) -> i64 {
    x
}

#[task]
async fn generic<T: Send>(x: T) -> T {
    x
}

#[task]
async fn bounded(x: i64) -> i64
where
    i64: Copy,
{
    x
}

#[task]
async fn lifetime<'a>(x: &'a str) {}

#[task(blocking)]
unsafe extern "C" fn variadic(x: i64, _: ...) {}

fn main() {}
