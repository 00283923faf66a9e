//! cargo run --example chord
//!
//! Map and reduce: the body runs once, when all members of the header have ended.

use std::collections::BTreeMap;

use chordal::prelude::*;

type Counts = BTreeMap<String, u32>;

#[task]
async fn count_words(page: String) -> Result<Counts, TaskError> {
    if page.is_empty() {
        return Err(TaskError::new("the page is empty"));
    }
    let mut counts = Counts::new();
    for word in page.split_whitespace() {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

#[task]
async fn merge(pages: Vec<Result<Counts, TaskFailure>>) -> Counts {
    let mut sum = Counts::new();
    for (word, count) in pages.into_iter().flatten().flatten() {
        *sum.entry(word).or_default() += count;
    }
    sum
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    let app = App::in_memory();
    let app = app.tasks(tasks![count_words, merge]).start().await?;

    let pages = ["the cat and the dog", "", "the bird and the cat"];
    let header = group(pages.map(|page| count_words.s(page.into())));
    // `settled`: the body gets every outcome. Without it the empty page would fail the chord.
    let words = chord(header.settled(), merge.partial());
    println!("{:?}", app.apply_async(words).await?.await?);
    app.shutdown().await
}
