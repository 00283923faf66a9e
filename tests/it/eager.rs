//! Eager mode: the whole canvas in its caller. What each form comes to is compared in
//! `tests/celery/eager.rs`; here is what is particular to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use chordal::prelude::*;
use chordal::{Canvas, Clock, Error, FailureKind, State, SubmitError};
use parking_lot::Mutex;

static NOTES: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

fn note(key: &'static str, what: impl ToString) {
    NOTES.lock().push((key, what.to_string()));
}

fn notes(key: &str) -> Vec<String> {
    let notes = NOTES.lock();
    let own = notes.iter().filter(|(of, _)| *of == key);
    own.map(|(_, what)| what.clone()).collect()
}

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn total(all: Vec<i64>) -> i64 {
    all.iter().sum()
}

#[task]
async fn range(n: i64) -> Vec<i64> {
    (0..n).collect()
}

#[task]
async fn refuse(x: i64) -> Result<i64, TaskError> {
    Err(TaskError::new(format!("not {x}")))
}

fn run<T>(test: impl Future<Output = chordal::Result<T>>) -> T {
    pollster::block_on(test).unwrap()
}

/// In a process of its own, where no other test starts threads.
#[test]
fn an_eager_app_starts_no_thread() {
    const CHILD: &str = "CHORDAL_TEST_EAGER_THREADS";
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this)
            .args(["--exact", "eager::an_eager_app_starts_no_thread"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let before = threads();
    run(async {
        let app = App::eager().tasks(tasks![add, total, whose, call_all]);
        let app = app.start().await?;
        let blocking = group((0..3).map(|_| whose.s())) | call_all.partial();
        app.apply_async(blocking).await?.get().await?;
        let header = group((0..50).map(|i| add.s(i, i)));
        let sum = app.apply_async(chord(header, total.partial())).await?;
        assert_eq!(sum.get().await?, 2_450);
        assert_eq!(threads(), before);
        app.shutdown().await
    });
    assert_eq!(threads(), before);
}

#[task(blocking)]
fn whose() -> String {
    format!("{:?}", thread::current().id())
}

#[task]
async fn call_all(ctx: &TaskContext, ids: Vec<String>) -> Result<Vec<String>, TaskError> {
    let here = ctx.call("here", whose.s()).await?;
    Ok(ids.into_iter().chain([here]).collect())
}

#[test]
fn everything_runs_on_the_callers_thread_under_any_executor() {
    let test = || async {
        let app = App::eager().tasks(tasks![whose, call_all]).start().await?;
        let ids = group((0..3).map(|_| whose.s())) | call_all.partial();
        app.apply_async(ids).await?.get().await
    };
    let here = vec![format!("{:?}", thread::current().id()); 4];
    assert_eq!(run(test()), here);
    let tokio = tokio::runtime::Builder::new_current_thread().build();
    assert_eq!(tokio.unwrap().block_on(test()).unwrap(), here);
}

#[test]
fn what_is_submitted_has_ended_and_its_handle_says_all() {
    run(async {
        let app = App::eager()
            .tasks(tasks![add, total, range])
            .start()
            .await?;
        let canvas = range.s(4) | add.each(10);
        let list = app.apply_async(canvas).await?;
        assert_eq!(list.state().await?, State::Success);
        list.at_rest().await?;
        assert_eq!(list.get().await?, [10, 11, 12, 13]);
        assert_eq!(list.get_timeout(Duration::ZERO).await?.len(), 4);
        assert_eq!(list.children::<()>().await?.len(), 2);
        assert_eq!(list.completed_count().await?, 2);
        let members = list.members::<i64>().await?.unwrap();
        assert_eq!(members[3].get().await?, 13);
        let again = app.async_result::<i64>(members[2].id()).await?;
        assert_eq!(again.get_blocking()?, 12);
        let mut completions = list.completions();
        let mut seen = Vec::new();
        while let Some(completion) = completions.next().await {
            let Completion { index, outcome } = completion?;
            seen.push((index, outcome.unwrap()));
        }
        assert_eq!(seen, [(0, 10), (1, 11), (2, 12), (3, 13)]);
        assert!(app.parked().await?.is_empty());
        let none = app.apply_async(chord(
            group(Vec::<chordal::Signature<(), i64>>::new()),
            total.partial(),
        ));
        assert_eq!(none.await?.get().await?, 0);
        Ok(())
    });
}

#[task]
async fn heard(ctx: &TaskContext, failure: chordal::TaskFailure) {
    let _ = ctx;
    note("callbacks", failure.message);
}

#[task]
async fn told(x: i64) {
    note("callbacks", x);
}

#[test]
fn callbacks_have_run_too_behind_all_else() {
    run(async {
        let app = App::eager().tasks(tasks![add, refuse, heard, told]);
        let app = app.start().await?;
        let canvas = add.s(1, 1).link(told.partial()) | refuse.partial();
        let failing = app.apply_async(canvas.on_error(heard.partial())).await?;
        assert_eq!(notes("callbacks"), ["2", "not 2"]);
        assert_eq!(failing.state().await?, State::Failure);
        Ok(())
    });
}

#[task(max_retries = 3, default_retry_delay = "1h")]
async fn third(ctx: &TaskContext) -> Result<u32, TaskError> {
    match ctx.attempt() {
        3 => Ok(3),
        _ => Err(TaskError::new("again")),
    }
}

#[test]
fn delays_are_not_waited_for_and_the_clock_stands_still() {
    run(async {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
        let app = App::eager().clock(clock.clone()).tasks(tasks![third, add]);
        let app = app.start().await?;
        let start = clock.now();
        let retried = third.s().countdown(Duration::from_secs(86_400));
        assert_eq!(app.apply_async(retried).await?.get().await?, 3);
        assert_eq!(clock.now(), start);
        // It would have expired while it waited.
        let late = add.s(1, 1).countdown(Duration::from_secs(60));
        let late = late.expires(Duration::from_secs(30));
        let late = app.apply_async(late).await?;
        assert_eq!(late.state().await?, State::Revoked);
        let in_time = third.s().expires(Duration::from_secs(2 * 3_600 + 1));
        assert_eq!(app.apply_async(in_time).await?.get().await?, 3);
        let expired = third.s().expires(Duration::from_secs(2 * 3_600));
        let expired = app.apply_async(expired).await?;
        assert_eq!(expired.state().await?, State::Revoked);
        Ok(())
    });
}

#[task(blocking, time_limit = "20ms")]
fn slow() -> u32 {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(30) {}
    1
}

#[task(blocking, soft_time_limit = "20ms")]
fn looks(ctx: &TaskContext) -> u32 {
    while !ctx.is_over_soft_time_limit() {}
    7
}

#[task(time_limit = "1h")]
async fn sticks() {
    std::future::pending().await
}

#[test]
fn time_limits_are_judged_when_the_task_yields_or_a_blocking_one_returns() {
    run(async {
        let app = App::eager().tasks(tasks![slow, looks]).start().await?;
        let late = app.apply_async(slow.s()).await?.get().await;
        assert!(matches!(late, Err(Error::Failed(why)) if why.kind == FailureKind::TimeLimit));
        assert_eq!(app.apply_async(looks.s()).await?.get().await?, 7);

        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let app = App::eager().clock(clock.clone()).tasks(tasks![sticks]);
        let app = app.start().await?;
        let turned = async { clock.advance(Duration::from_secs(3_600)) };
        let (stuck, ()) = futures_util::join!(app.apply_async(sticks.s()), turned);
        let stuck = stuck?.get().await;
        assert!(matches!(stuck, Err(Error::Failed(why)) if why.kind == FailureKind::TimeLimit));
        Ok(())
    });
}

#[task]
async fn panics() {
    panic!("oh no")
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped")
    }
}

#[task]
async fn panics_twice() {
    std::panic::panic_any(PanicsWhenDropped)
}

#[test]
fn panics_are_failures() {
    run(async {
        let app = App::eager()
            .tasks(tasks![panics, panics_twice])
            .start()
            .await?;
        for canvas in [panics.s(), panics_twice.s()] {
            let panicked = app.apply_async(canvas).await?.get().await;
            assert!(matches!(panicked, Err(Error::Failed(why)) if why.kind == FailureKind::Panic));
        }
        Ok(())
    });
}

#[task]
async fn down(ctx: &TaskContext, n: u32) -> Result<u32, TaskError> {
    match n {
        0 => Ok(0),
        n => ctx.replace(down.s(n - 1)),
    }
}

#[task]
async fn fib(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    if n < 2 {
        return Ok(n);
    }
    let (a, b) = futures_util::try_join!(ctx.call("a", fib.s(n - 1)), ctx.call("b", fib.s(n - 2)))?;
    Ok(a + b)
}

#[test]
fn tasks_call_tasks_and_are_replaced_however_often() {
    run(async {
        let app = App::eager().tasks(tasks![down, fib]).start().await?;
        assert_eq!(app.apply_async(down.s(5_000)).await?.get().await?, 0);
        assert_eq!(app.apply_async(fib.s(8)).await?.get().await?, 21);
        Ok(())
    });
}

#[task]
async fn dig(ctx: &TaskContext, n: u32) -> Result<u32, TaskError> {
    match n {
        0 => Ok(0),
        n => Ok(1 + ctx.call("deeper", dig.s(n - 1)).await?),
    }
}

#[test]
fn calls_nest() {
    run(async {
        let app = App::eager().tasks(tasks![dig]).start().await?;
        assert_eq!(app.apply_async(dig.s(25)).await?.get().await?, 25);
        Ok(())
    });
}

static CALLED: AtomicU32 = AtomicU32::new(0);

#[task]
async fn yields() -> u32 {
    tokio::task::yield_now().await;
    CALLED.fetch_add(1, Ordering::SeqCst) + 1
}

#[task(max_retries = 1)]
async fn joins(ctx: &TaskContext) -> Result<(u32, u32, u32), TaskError> {
    let call = || ctx.call("one", yields.s());
    if ctx.attempt() == 1 {
        // Begun, and left alone: the next attempt goes on with it.
        let mut begun = Box::pin(call());
        assert!(futures_util::poll!(&mut begun).is_pending());
        return Err(TaskError::new("again"));
    }
    let (a, b) = futures_util::try_join!(call(), call())?;
    Ok((a, b, call().await?))
}

#[test]
fn calls_of_one_key_are_one_call_over_attempts_too() {
    run(async {
        let app = App::eager().tasks(tasks![yields, joins]).start().await?;
        assert_eq!(app.apply_async(joins.s()).await?.get().await?, (1, 1, 1));
        Ok(())
    });
}

#[task]
async fn starts(ctx: &TaskContext, n: i64) -> Result<i64, TaskError> {
    let sum = ctx.apply_async(add.s(n, n)).await?;
    Ok(sum.get().await? + sum.get_blocking()?)
}

#[task]
async fn grows(ctx: &TaskContext, n: i64) -> Result<i64, TaskError> {
    if n < 3 {
        ctx.add_to_chord(grows.s(n + 1))?;
    }
    Ok(n)
}

#[test]
fn a_task_submits_and_adds_to_its_chord() {
    run(async {
        let app = App::eager().tasks(tasks![add, starts, grows, total]);
        let app = app.start().await?;
        assert_eq!(app.apply_async(starts.s(5)).await?.get().await?, 20);
        let nested = chord(group([grows.s(1), grows.s(1)]), total.partial());
        assert_eq!(app.apply_async(nested).await?.get().await?, 12);
        let sum = chord(group([grows.s(2), grows.s(2)]), total.partial());
        assert_eq!(app.apply_async(sum).await?.get().await?, 10);
        Ok(())
    });
}

#[test]
fn a_key_submits_once_and_what_is_refused_runs_nothing() {
    run(async {
        let app = App::eager().tasks(tasks![add]).start().await?;
        let submit = |x| app.apply_async(add.s(x, 1).idempotency_key("once"));
        let (first, second) = (submit(1).await?, submit(2).await?);
        assert_eq!(first.id(), second.id());
        assert_eq!(second.get().await?, 2);
        let unknown = app.apply_async(total.s(vec![1])).await;
        assert!(matches!(
            unknown,
            Err(Error::Submit(SubmitError::Canvas { .. }))
        ));
        let canvas = Canvas::from_json(r#"{"task": "nobody", "args": []}"#)?;
        let unknown = app.apply_async(canvas).await;
        assert!(matches!(
            unknown,
            Err(Error::Submit(SubmitError::Canvas { .. }))
        ));
        Ok(())
    });
}

#[test]
fn after_shutdown_nothing_is_submitted_or_read() {
    run(async {
        let app = App::eager().tasks(tasks![add]).start().await?;
        let sum = app.apply_async(add.s(1, 1)).await?;
        app.shutdown().await?;
        app.shutdown().await?;
        assert!(matches!(sum.get().await, Err(Error::ShutDown)));
        assert!(matches!(sum.state().await, Err(Error::ShutDown)));
        let late = app.apply_async(add.s(1, 1)).await;
        assert!(matches!(late, Err(Error::ShutDown)));
        Ok(())
    });
}

#[task]
async fn publishes(ctx: &TaskContext) {
    note("dropped", ctx.root_id());
    std::future::pending().await
}

#[test]
fn what_a_dropped_future_left_undone_fails_and_frees_its_key() {
    run(async {
        let app = App::eager().tasks(tasks![publishes, add]).start().await?;
        let canvas = add.s(1, 1) | publishes.si();
        let mut begun = Box::pin(app.apply_async(canvas.idempotency_key("k")));
        assert!(futures_util::poll!(&mut begun).is_pending());
        let id = notes("dropped")[0].parse()?;
        let left = app.async_result::<()>(id).await?;
        assert_eq!(left.state().await?, State::Started);
        drop(begun);
        let why = left.get().await;
        assert!(matches!(why, Err(Error::Failed(why)) if why.kind == FailureKind::Engine));
        left.at_rest().await?;
        let again = app.apply_async(add.s(2, 2).idempotency_key("k")).await?;
        assert_eq!(again.get().await?, 4);
        Ok(())
    });
}

#[test]
fn workflows_side_by_side_do_not_mix() {
    run(async {
        let app = App::eager().tasks(tasks![yields_sum, add]).start().await?;
        let app = Arc::new(app);
        let one = |n: i64| {
            let app = app.clone();
            async move {
                let sums = app.apply_async(group((0..10).map(move |i| yields_sum.s(i, n))));
                sums.await?.get().await
            }
        };
        let (a, b) = futures_util::try_join!(one(0), one(100))?;
        assert_eq!(a, (0..10).collect::<Vec<_>>());
        assert_eq!(b, (100..110).collect::<Vec<_>>());
        Ok(())
    });
}

#[task]
async fn yields_sum(x: i64, y: i64) -> i64 {
    tokio::task::yield_now().await;
    x + y
}

#[test]
fn canvases_of_the_greatest_depth_and_many_members_run() {
    run(async {
        let app = App::eager().tasks(tasks![add, total]).start().await?;
        let mut deep = Canvas::from(add.s(1, 1));
        for _ in 0..126 {
            deep = Canvas::group([deep]);
        }
        app.apply_async(deep).await?.at_rest().await?;
        let many = chord(group((0..3_000).map(|i| add.s(i, 0))), total.partial());
        assert_eq!(app.apply_async(many).await?.get().await?, 4_498_500);
        Ok(())
    });
}
