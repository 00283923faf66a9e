//! cargo run --example resume -- [DIRECTORY]
//!
//! Run it twice: the first run dies in the middle of its work, the second one carries on.

use std::path::PathBuf;
use std::time::SystemTime;

use chordal::prelude::*;

/// Adds the time it ran at to that of the steps before it.
#[task]
async fn step(ctx: &TaskContext, mut times: Vec<SystemTime>) -> Vec<SystemTime> {
    println!("step {} runs, attempt {}", times.len() + 1, ctx.attempt());
    if times.len() == 2 && ctx.attempt() == 1 {
        println!("the power goes out: run it again");
        std::process::exit(1);
    }
    times.push(SystemTime::now());
    times
}

#[tokio::main]
async fn main() -> chordal::Result<()> {
    let start = SystemTime::now();
    let directory = match std::env::args_os().nth(1) {
        Some(directory) => PathBuf::from(directory),
        None => std::env::temp_dir().join("chordal-example-resume"),
    };
    // Opening it is enough: what was unfinished goes on.
    let app = App::open(&directory).tasks(tasks![step]).start().await?;

    // The key makes the second run's submission the first one's: nothing is done twice.
    let work = step.s(vec![]) | chain((0..4).map(|_| step.partial()));
    let work = app.apply_async(work.idempotency_key("five steps")).await?;

    for (i, time) in work.await?.into_iter().enumerate() {
        let when = if time < start {
            "was already done"
        } else {
            "done now"
        };
        println!("step {}: {when}", i + 1);
    }
    println!("to start over, remove {}", directory.display());
    app.shutdown().await
}
