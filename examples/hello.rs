//! cargo run --example hello
//!
//! One task: define it, submit it, wait for its value.

use chordal::prelude::*;

#[task]
async fn greet(name: String) -> String {
    format!("hello, {name}")
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    // `App::open("data")` keeps the work in a directory, where it survives a crash.
    let app = App::in_memory().tasks(tasks![greet]).start().await?;

    let greeting = app.apply_async(greet.s("world".into())).await?;
    println!("task {} is submitted", greeting.id());
    println!("{}", greeting.await?);

    app.shutdown().await
}
