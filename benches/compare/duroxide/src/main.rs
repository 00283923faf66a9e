//! duroxide with its SQLite provider over a file. (Its pragma `synchronous = WAL` is none that SQLite
//! knows; what is left is NORMAL: no fsync per commit.)
//!
//! Configuration: oORCHESTRATIONSwWORKERSpMS, how many of each at once, and the least time between two
//! looks at the queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::sqlite::SqliteProvider;
use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{
    ActivityContext, Client, OrchestrationContext, OrchestrationRegistry, OrchestrationStatus,
};
use rustkit::{Arguments, DataDir, LIMIT, report, sum_below};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let folder = DataDir::new("duroxide");
    let path = folder.file("duroxide.db");
    std::fs::File::create(&path).expect("a file");
    let url = format!("sqlite:{}", path.display());
    let store = Arc::new(SqliteProvider::new(&url, None).await.expect("a store"));
    let options = options(&arguments.config);
    let runtime =
        Runtime::start_with_options(store.clone(), activities(), orchestrations(), options).await;
    let client = Client::new(store);
    run(&client, "warm-up", "Group", 20)
        .await
        .expect("a warm-up");

    let start = Instant::now();
    let mut latencies = Vec::new();
    let end = measure(&client, &arguments, &mut latencies).await;
    let seconds = start.elapsed().as_secs_f64();
    report(
        "0.1.32",
        &arguments,
        seconds,
        latencies,
        end.map(|()| String::new()),
    );
    let _ = tokio::time::timeout(Duration::from_secs(5), runtime.shutdown(Some(100))).await;
}

async fn measure(
    client: &Client,
    arguments: &Arguments,
    latencies: &mut Vec<Duration>,
) -> Result<(), String> {
    let n = arguments.n;
    let check = |found: &str, right: String| match found == right {
        true => Ok(()),
        false => Err(format!("{found} in place of {right}")),
    };
    match arguments.shape.as_str() {
        "group" => {
            let values = run(client, "measured", "Group", n).await?;
            let right: Vec<_> = (0..n).collect();
            check(&values, serde_json::to_string(&right).expect("numbers"))
        }
        "chord" => {
            let sum = run(client, "measured", "Chord", n).await?;
            check(&sum, sum_below(n).to_string())
        }
        "chain" => {
            let last = run(client, "measured", "Chain", n).await?;
            check(&last, n.to_string())
        }
        "latency" => {
            for i in 0..n {
                let start = Instant::now();
                let value = run(client, &format!("measured-{i}"), "One", i).await?;
                latencies.push(start.elapsed());
                check(&value, i.to_string())?;
            }
            Ok(())
        }
        shape => Err(format!("no shape {shape}")),
    }
}

async fn run(client: &Client, id: &str, name: &str, input: usize) -> Result<String, String> {
    let started = client.start_orchestration(id, name, input.to_string());
    started.await.map_err(|error| format!("{error:?}"))?;
    match client.wait_for_orchestration(id, LIMIT).await {
        Ok(OrchestrationStatus::Completed { output, .. }) => Ok(output),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn activities() -> ActivityRegistry {
    ActivityRegistry::builder()
        .register("Noop", |_: ActivityContext, i: String| async { Ok(i) })
        .register("Increment", |_: ActivityContext, i: String| async move {
            let i: u64 = i.parse().expect("a number");
            Ok((i + 1).to_string())
        })
        .register("Total", |_: ActivityContext, values: String| async move {
            let values: Vec<u64> = serde_json::from_str(&values).expect("numbers");
            Ok(values.iter().sum::<u64>().to_string())
        })
        .build()
}

fn orchestrations() -> OrchestrationRegistry {
    let chord = |context: OrchestrationContext, n: String| async move {
        let values = all(&context, &n).await?;
        context.schedule_activity("Total", values).await
    };
    let chain = |context: OrchestrationContext, n: String| async move {
        let mut value = "0".to_owned();
        for _ in 0..n.parse::<usize>().expect("a number") {
            value = context.schedule_activity("Increment", value).await?;
        }
        Ok(value)
    };
    OrchestrationRegistry::builder()
        .register(
            "Group",
            |context: OrchestrationContext, n: String| async move { all(&context, &n).await },
        )
        .register("Chord", chord)
        .register("Chain", chain)
        .register(
            "One",
            |context: OrchestrationContext, i: String| async move {
                context.schedule_activity("Noop", i).await
            },
        )
        .build()
}

/// `n` activities at once, and their values as JSON.
async fn all(context: &OrchestrationContext, n: &str) -> Result<String, String> {
    let n: usize = n.parse().expect("a number");
    let members = (0..n).map(|i| context.schedule_activity("Noop", i.to_string()));
    let mut values: Vec<u64> = Vec::with_capacity(n);
    for value in context.join(members.collect()).await {
        values.push(value?.parse().expect("a number"));
    }
    Ok(serde_json::to_string(&values).expect("numbers"))
}

fn options(config: &str) -> RuntimeOptions {
    let after = |letter| -> u64 {
        let (_, rest) = config
            .split_once(letter)
            .expect("a letter of the configuration");
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap_or_default().parse().expect("a number")
    };
    let mut options = RuntimeOptions {
        orchestration_concurrency: after('o') as usize,
        worker_concurrency: after('w') as usize,
        dispatcher_min_poll_interval: Duration::from_millis(after('p')),
        // A large join is one long turn, whose lock must not be taken away.
        orchestrator_lock_timeout: Duration::from_secs(120),
        worker_lock_timeout: Duration::from_secs(120),
        ..Default::default()
    };
    options.observability.log_level = "off".into();
    options
}
