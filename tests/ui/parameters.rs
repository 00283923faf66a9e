use chordal::prelude::*;

#[task]
async fn text(name: &str) {}

#[task]
async fn slice(names: &[String]) {}

#[task]
async fn open(path: &'static std::path::Path) {}

#[task]
async fn reference(path: &mut Vec<u8>) {}

#[task]
async fn nested(names: Vec<&str>, more: std::borrow::Cow<'_, str>) {}

#[task]
async fn unnamed(items: impl Iterator<Item = i64>) {}

#[task]
async fn pattern((x, y): (i64, i64)) {}

#[task]
async fn ignored(_: i64) {}

#[task]
async fn by_ref(ref x: i64) {}

#[task]
async fn count(count: i64) {}

#[task]
async fn conditional(x: i64, #[cfg(unix)] y: i64) {}

#[task]
#[rustfmt::skip]
async fn many(
    ctx: &TaskContext,
    a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8, m: u8,
) {}

fn main() {}
