use chordal::prelude::*;

type Outcome = Result<i64, String>;

#[task]
async fn plain(x: i64) -> Outcome {
    Ok(x)
}

type Answer<T> = std::io::Result<T>;

#[task(blocking)]
fn generic(x: i64) -> Answer<i64> {
    Ok(x)
}

fn main() {}
