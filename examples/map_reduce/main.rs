//! Map-reduce: counts the words of many files, and can be killed at any instant.
//!
//! ```text
//! cargo run --release --example map_reduce -- [--data-dir DIR] [--top N] [--chunk-bytes N] [--json] [PATH…]
//! ```
//!
//! The files are cut into chunks of at most 64 KiB; each is counted by a task of its own, in a
//! chord whose body adds the tables up. Above 32 chunks the header's members are chords
//! themselves, so that no task has more than some tens of tables to read. A table that is too large
//! for a task's value is a file beside the store, and is merged from there: so a text may be as large
//! as the disk, however many words it has.
//!
//! Kill it and run it again with the same arguments and the same `--data-dir`: it goes on where
//! it was. Chunks that were done are not counted again, since the run has an idempotency key made
//! of the arguments and of every file's path, length and time of change. Once more, and the stored
//! answer is there at once; so it is for a week.
//!
//! A word is a maximal run of characters for which `char::is_alphanumeric` holds, in lower case.
//! Files that are not UTF-8 are skipped, symbolic links below a PATH are not followed.
//!
//! Exit status: 0 with the answer on standard output, 1 after a failure, 2 for wrong usage.
//!
//! Three hidden options serve `tests/crash/main.rs`: `--ledger FILE` (see `ledger.rs`), `--engine redb`,
//! and `--durability buffered`, with which a kill must make that test fail.

mod ledger;
mod plan;
mod progress;
mod shelf;
mod table;
mod tasks;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use chordal::persistence::RedbStore;
use chordal::{App, AppBuilder, AsyncResult, Durability, Error, Id, IdError};
use clap::{Parser, ValueEnum};
use indicatif::HumanCount;
use plan::Plan;
use progress::Progress;
use serde::Serialize;
use shelf::Shelved;
use table::Answer;

/// Where tables are kept that are large, beside the store.
const TABLES: &str = "tables";

/// How long the answer of a run is kept.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Counts the words in files.
#[derive(Debug, Parser)]
struct Args {
    /// Where the run is kept, to be resumed after a crash [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many of the most frequent words to print
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// How much of a file one task counts; a single longer word stays whole
    #[arg(long, value_name = "N", default_value_t = 65_536,
          value_parser = clap::value_parser!(u64).range(1..))]
    chunk_bytes: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// For the crash test: write down what runs and what is durable
    #[arg(long, value_name = "FILE", hide = true)]
    ledger: Option<PathBuf>,
    /// For the crash test: how much a crash may take back
    #[arg(long, value_enum, hide = true)]
    durability: Option<Kept>,
    /// For the crash test: what keeps the run
    #[arg(long, value_enum, hide = true, default_value = "sled")]
    engine: Engine,
    /// Files and directories [default: the files of this repository]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kept {
    Power,
    Process,
    Buffered,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Sled,
    Redb,
}

impl Engine {
    fn open(self, directory: &Path) -> chordal::Result<AppBuilder> {
        Ok(match self {
            Self::Sled => App::open(directory),
            Self::Redb => App::with_store(RedbStore::open(directory)?),
        })
    }
}

impl From<Kept> for Durability {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Power => Self::Power,
            Kept::Process => Self::Process,
            Kept::Buffered => Self::Buffered,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    use_one_arena();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("map_reduce: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Glibc keeps what each thread has freed for that thread, which here, with large tables that come
/// and go on many threads, nearly doubles the memory: 790 MB instead of 430 for 200 MB of words
/// that are all different. It reads its setting when the program starts, so the program starts
/// itself again with it, in the same process. Where that cannot be, it goes on without.
fn use_one_arena() {
    const SETTING: &str = "MALLOC_ARENA_MAX";
    if cfg!(target_env = "gnu")
        && std::env::var_os(SETTING).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let _error = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(SETTING, "1")
            .exec();
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.ledger {
        ledger::open(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Made before the store is opened: that starts to work on what is unfinished at once.
    let plan = plan(args)?;
    // Removed when it is dropped, behind the app, also after an error.
    let temporary = match &args.data_dir {
        None => Some(tempfile::tempdir().context("cannot make a temporary directory")?),
        Some(_) => None,
    };
    let (directory, durability) = match (&args.data_dir, &temporary) {
        (Some(directory), _) => (directory.as_path(), Durability::Power),
        // Nobody will ever come back to it.
        (None, Some(temporary)) => (temporary.path(), Durability::Buffered),
        (None, None) => unreachable!("one of the two is there"),
    };
    shelf::open(directory.join(TABLES));
    let open = async {
        let app = args.engine.open(directory)?;
        let durability = args.durability.map_or(durability, Durability::from);
        let app = app.durability(durability).retention(WEEK);
        // Its tasks read and count: if it ends before they do, somebody has killed it.
        let app = app.quarantine_after(u32::MAX);
        app.tasks(tasks::all()).start().await
    };
    let app = open
        .await
        .with_context(|| format!("cannot open {}", directory.display()))?;
    let answer = tokio::select! {
        answer = count(&app, args, &plan) => answer,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let stopped = app.shutdown().await;
    let answer = answer?;
    stopped?;
    print(args, &plan, &answer).context("cannot write the answer")
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = examples.parent().expect("they lie in the repository");
    // Only what the store makes there: the rest of the data dir may well be meant.
    let data_dir = args.data_dir.iter();
    let stores = data_dir.flat_map(|dir| {
        ["LOCK", "ballast", "sled", "wal", "redb", TABLES].map(|name| dir.join(name))
    });
    let mut without: Vec<PathBuf> = stores.chain(args.ledger.clone()).collect();
    if !args.paths.is_empty() {
        return Plan::of(&args.paths, &without, args.chunk_bytes);
    }
    without.extend(["target", ".git"].map(|name| repository.join(name)));
    Plan::of(&[repository.to_owned()], &without, args.chunk_bytes)
}

async fn count(app: &App, args: &Args, plan: &Plan) -> anyhow::Result<Answer> {
    clear_old(app).await?;
    let (run, is_resumed) = submit(app, args, plan).await?;
    let total = plan.chunks.len();
    let mut progress = Progress::of(app, run.id(), total).await?;
    if is_resumed && run.ready().await? {
        eprintln!(
            "the answer was there already: {}",
            chunks(total as u64, total)
        );
    } else if is_resumed {
        let done = progress.done().await?;
        eprintln!("resuming: {} were already done", chunks(done, total));
    }
    let answer = tokio::select! {
        biased;
        answer = run.get() => answer?,
        error = progress.show() => match error? {},
    };
    progress.finish().await?;
    ledger::acked(run.id())?;
    shelf::clear(run.id(), Some(&answer)).context("cannot clear the tables away")?;
    answer.answer().context("cannot read the answer")
}

/// Removes the tables of runs that are no longer known.
async fn clear_old(app: &App) -> anyhow::Result<()> {
    for run in shelf::runs().context("cannot read the tables")? {
        if let Err(Error::Id(IdError::Unknown { .. })) = app.async_result::<Shelved>(run).await {
            shelf::clear(run, None).context("cannot clear the tables away")?;
        }
    }
    Ok(())
}

/// Starts the run, or finds the one that was started before with the same arguments over the
/// same files; says whether it was started before.
async fn submit(
    app: &App,
    args: &Args,
    plan: &Plan,
) -> anyhow::Result<(AsyncResult<Shelved>, bool)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Ids tell milliseconds.
    let now = Duration::from_millis(now.as_millis() as u64);
    let run = format!(
        "map_reduce with files {:032x} {} {}",
        plan.fingerprint, args.chunk_bytes, args.top
    );
    for attempt in 1u64.. {
        let canvas = tasks::canvas(plan.chunks.clone(), args.top);
        let canvas = canvas.idempotency_key(format!("{run} {attempt}"));
        let handle = app.apply_async(canvas).await?;
        let is_resumed = started(handle.id()) < now;
        // A run that failed has ended: to be run again it needs another key.
        if !(is_resumed && handle.failed().await?) {
            return Ok((handle, is_resumed));
        }
    }
    unreachable!("nobody runs it so often")
}

/// When a run was submitted: its id tells, to the millisecond.
fn started(run: Id) -> Duration {
    let time = run.as_uuid().get_timestamp();
    time.map_or(Duration::ZERO, |time| {
        let (seconds, nanos) = time.to_unix();
        Duration::new(seconds, nanos)
    })
}

fn chunks(done: u64, total: usize) -> String {
    let (done, total) = (HumanCount(done), HumanCount(total as u64));
    format!("{done} of {total} chunks")
}

/// What `--json` prints.
#[derive(Serialize)]
struct Object<'a> {
    files: u64,
    skipped: u64,
    #[serde(flatten)]
    answer: &'a Answer,
}

fn print(args: &Args, plan: &Plan, answer: &Answer) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = Object {
            files: plan.files,
            skipped: plan.skipped,
            answer,
        };
        writeln!(out, "{}", serde_json::to_string(&object)?)?;
    } else {
        let numbers = [
            ("files", plan.files),
            ("skipped", plan.skipped),
            ("words", answer.words),
            ("distinct", answer.distinct),
        ];
        for (name, number) in numbers {
            writeln!(out, "{:>15}  {name}", HumanCount(number).to_string())?;
        }
        writeln!(out)?;
        for (word, count) in &answer.top {
            writeln!(out, "{:>15}  {word}", HumanCount(*count).to_string())?;
        }
    }
    out.flush()
}
