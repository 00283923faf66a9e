//! cargo run --example chain
//!
//! Steps one after the other, each with the value of the one before it.

use chordal::prelude::*;

#[task]
async fn parse(line: String) -> Result<Vec<u32>, TaskError> {
    let numbers: Result<_, _> = line.split_whitespace().map(str::parse).collect();
    Ok(numbers?) // any error becomes a TaskError: the task fails with its message
}

#[task]
async fn largest(numbers: Vec<u32>) -> Result<u32, TaskError> {
    let found = numbers.into_iter().max();
    found.ok_or_else(|| TaskError::new("there are no numbers"))
}

#[task]
async fn describe(number: u32, what: String) -> String {
    format!("the {what} number is {number}")
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    let app = App::in_memory()
        .tasks(tasks![parse, largest, describe])
        .start()
        .await?;
    // It would not compile if the types of two steps did not meet.
    let report =
        |line: &str| parse.s(line.into()) | largest.partial() | describe.partial("largest".into());

    let good = app.apply_async(report("3 41 15")).await?;
    println!("3 41 15: {}", good.await?);

    // A step that fails ends the chain; those behind it never run.
    let bad = app.apply_async(report("3 forty-one 15")).await?;
    if let Err(chordal::Error::Failed(failure)) = bad.await {
        println!(
            "3 forty-one 15: `{}` failed: {}",
            failure.name, failure.message
        );
    }
    app.shutdown().await
}
