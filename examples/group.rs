//! cargo run --example group
//!
//! Tasks in parallel: their values come in member order, whatever the order they end in.

use chordal::prelude::*;

#[task(blocking)] // CPU work is a plain `fn`, and runs on a thread of its own
fn count_primes(from: u32, to: u32) -> usize {
    let is_prime = |n: u32| {
        n > 1
            && !(2..)
                .take_while(|d| d * d <= n)
                .any(|d| n.is_multiple_of(d))
    };
    (from..to).filter(|n| is_prime(*n)).count()
}

#[task]
async fn shout(text: String) -> String {
    text.to_uppercase()
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    let app = App::in_memory()
        .tasks(tasks![count_primes, shout])
        .start()
        .await?;

    let ranges = (0..4).map(|i| count_primes.s(i * 1_000, (i + 1) * 1_000));
    let primes = app.apply_async(group(ranges)).await?;
    let mut completions = primes.completions(); // as they end
    while let Some(completion) = completions.next().await {
        let Completion { index, outcome } = completion?;
        println!("member {index} is done: {} primes", outcome?);
    }
    println!("in order: {:?}", (&primes).await?);
    println!("{} of 4 completed", primes.completed_count().await?);

    // Members of different types: a tuple.
    let both = app
        .apply_async(group!(count_primes.s(0, 100), shout.s("primes".into())))
        .await?;
    let (count, text) = both.await?;
    println!("{count} {text} below 100");
    app.shutdown().await
}
