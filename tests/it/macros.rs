//! What `#[task]` makes of a function.

use std::{io, time::Duration};

use chordal::{Task, TaskOptions, prelude::*};

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(
    name = "shop.charge",
    queue = "payments",
    priority = 9,
    max_retries = 3,
    retry_backoff = "1.5s",
    retry_backoff_max = "2m",
    retry_jitter = true,
    default_retry_delay = "7s",
    soft_time_limit = "1m",
    time_limit = "1m30s"
)]
async fn charge(_ctx: &TaskContext, order: u64, mut cents: u64) -> Result<u64, TaskError> {
    cents += order;
    if cents > 100 {
        return Err(io::Error::other("too much"))?;
    }
    Ok(cents)
}

#[task(blocking)]
fn length(r#type: String) -> io::Result<usize> {
    Ok(r#type.len())
}

#[task]
async fn ping() {}

/// Its name is that of a generated method, and it speaks of itself.
#[task]
async fn s(n: u64) -> u64 {
    let _again = s.s(n);
    if n == 0 {
        0
    } else {
        Box::pin(s.call(n - 1)).await + 1
    }
}

#[rustfmt::skip]
#[task(retry_if = |error: &TaskError| error.error_type() == "Busy")]
#[allow(clippy::too_many_arguments)]
async fn most(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8) -> u8 {
    a + b + c + d + e + f + g + h + i + j + k + l
}

#[task]
#[cfg(any())]
async fn absent(x: NoSuchType) -> NoSuchType {
    x
}

macro_rules! largest {
    ($name:ident, $value:ty, $priority:literal) => {
        #[task(priority = $priority)]
        async fn $name(a: $value, b: $value) -> $value {
            a.max(b)
        }
    };
}
largest!(largest_byte, u8, 3);

async fn run<T: Task>(args: T::Args) -> Result<T::Output, TaskError> {
    T::run(TaskContext::detached(), args).await
}

#[test]
fn the_name_is_the_functions_unless_given() {
    fn names<T: Task>() -> Vec<&'static str> {
        T::PARAMS.iter().map(chordal::Parameter::name).collect()
    }
    assert_eq!((add::NAME, names::<add>()), ("add", vec!["x", "y"]));
    assert_eq!(charge::NAME, "shop.charge");
    assert_eq!(names::<charge>(), ["order", "cents"]);
    assert_eq!((length::NAME, names::<length>()), ("length", vec!["type"]));
    assert_eq!((ping::NAME, names::<ping>()), ("ping", vec![]));
}

#[test]
fn the_options_are_what_was_written() {
    let same = |a: TaskOptions, b: TaskOptions| assert_eq!(format!("{a:?}"), format!("{b:?}"));
    same(add::OPTIONS, TaskOptions::new());
    same(length::OPTIONS, TaskOptions::new().blocking());
    same(largest_byte::OPTIONS, TaskOptions::new().priority(3));
    same(
        charge::OPTIONS,
        TaskOptions::new()
            .queue("payments")
            .priority(9)
            .max_retries(3)
            .retry_backoff(Duration::from_millis(1_500))
            .retry_backoff_max(Duration::from_secs(120))
            .retry_jitter(true)
            .default_retry_delay(Duration::from_secs(7))
            .soft_time_limit(Duration::from_secs(60))
            .time_limit(Duration::from_secs(90)),
    );
    let is_worth_it = most::OPTIONS.retry_if.unwrap();
    assert!(is_worth_it(&TaskError::new("").with_type("Busy")));
    assert!(!is_worth_it(&TaskError::new("")));
}

#[tokio::test]
async fn a_run_is_the_body() {
    assert_eq!(run::<add>((2, 3)).await.unwrap(), 5);
    assert_eq!(run::<charge>((1, 2)).await.unwrap(), 3);
    assert!(run::<charge>((1, 100)).await.is_err());
    assert_eq!(run::<length>(("four".to_owned(),)).await.unwrap(), 4);
    run::<ping>(()).await.unwrap();
    assert_eq!(run::<s>((3,)).await.unwrap(), 3);
    assert_eq!(
        run::<most>((1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1))
            .await
            .unwrap(),
        12
    );
}

#[tokio::test]
async fn a_call_is_the_plain_function() {
    assert_eq!(add.call(2, 3).await, 5);
    assert_eq!(
        charge.call(&TaskContext::detached(), 1, 2).await.unwrap(),
        3
    );
    assert_eq!(length.call("four".to_owned()).unwrap(), 4);
    ping.call().await;
    assert_eq!(tokio::spawn(add.call(2, 3)).await.unwrap(), 5);
}

#[test]
fn the_methods_have_the_types_of_the_parameters() {
    let _: Signature<(), i64> = add.s(2, 3);
    let _: Immutable<i64> = add.si(2, 3);
    let _: Signature<i64, i64> = add.partial(3);
    let _: Signature<Vec<i64>, Vec<i64>> = add.each(3);
    let _: Immutable<Vec<i64>> = add.starmap([(2, 3)]);
    let _: Immutable<Vec<Vec<i64>>> = add.chunks([(2, 3)], 10);
    let _: Signature<u64, u64> = charge.partial(3);
    let _: Signature<String, usize> = length.partial();
    let _: Signature<Vec<String>, Vec<usize>> = length.each();
    let _: Immutable<Vec<usize>> = length.map(["one".to_owned()]);
    let _: Immutable<Vec<usize>> = length.starmap([("one".to_owned(),)]);
    let _: Signature<(), ()> = ping.s();
    let _: Immutable<()> = ping.si();
}

#[test]
fn a_task_can_be_local() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Order(u64);

    #[task]
    async fn local(order: Order) -> u64 {
        order.0
    }

    let _: Signature<(), u64> = local.s(Order(1));
}

/// Tasks that are named as generated code may name its own: they are tasks as any other.
mod names {
    use chordal::prelude::*;

    #[task]
    pub(super) async fn args(x: i64, text: String) -> i64 {
        x + i64::try_from(text.len()).unwrap()
    }

    #[task]
    pub(super) async fn ctx(context_: &TaskContext, x: i64) -> i64 {
        x + i64::from(context_.attempt())
    }

    #[task]
    pub(super) async fn items(x: i64, y: i64) -> i64 {
        x * y
    }

    #[task]
    pub(super) async fn n(x: i64) -> Result<i64, TaskError> {
        Ok(x)
    }

    #[task]
    pub(super) async fn body(xs: Results<i64>, y: i64) -> usize {
        xs.len() + usize::try_from(y).unwrap()
    }

    #[task]
    pub(super) async fn item(#[rest] xs: Vec<i64>) -> i64 {
        xs.iter().sum()
    }

    #[task]
    pub(super) async fn value(x: i64) -> std::io::Result<i64> {
        Ok(x)
    }

    #[task(blocking)]
    pub(super) fn error(#[default(7)] x: i64) -> Result<i64, String> {
        Err(x.to_string())
    }

    #[task]
    pub(super) async fn result() {}

    #[task]
    pub(super) async fn context() -> Result<(), TaskError> {
        result.call().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_task_may_have_a_name_that_generated_code_could_have() {
    use names::{args, body, context, ctx, error, item, items, n, result, value};

    let all = tasks![
        args, body, context, ctx, error, item, items, n, result, value
    ];
    let app = App::in_memory().tasks(all).start().await.unwrap();
    let canvas = group!(
        args.s(1, "two".into()),
        ctx.s(1),
        items.chunks([(1, 2), (3, 4), (5, 6)], 2),
        items.s(1, 1) | items.partial(2),
        n.map([1, 2]),
        body.map([(vec![1, 2], 3)]),
        chord([n.s(1), n.s(2)], body.partial(1)),
        item.s(vec![1, 2]),
        value.s(3),
        context.s(),
    );
    let values = app.apply_async(canvas).await.unwrap().get().await.unwrap();
    let expected = (
        4,
        2,
        vec![vec![2, 12], vec![30]],
        2,
        vec![1, 2],
        vec![5],
        3,
        3,
        3,
        (),
    );
    assert_eq!(values, expected);
    let failed = app.apply_async(error.s(9)).await.unwrap().get().await;
    assert!(failed.unwrap_err().to_string().ends_with(": 9"));
    app.shutdown().await.unwrap();
}

/// What a task may fail with: the texts and types of what comes of it.
mod errors {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;
    use std::ops::Deref;

    use chordal::prelude::*;

    use super::add;

    #[task]
    pub(super) async fn of_anyhow(text: String) -> anyhow::Result<i64> {
        anyhow::ensure!(!text.is_empty(), "empty");
        anyhow::Context::context(text.parse::<i64>(), "no number")
    }

    #[task]
    pub(super) async fn of_string(text: String) -> Result<i64, String> {
        Err(format!("bad {text}"))?;
        Ok(1)
    }

    #[task]
    pub(super) async fn of_str(_text: String) -> Result<i64, &'static str> {
        Err("bad")?;
        Ok(1)
    }

    #[task]
    pub(super) async fn of_cow(_text: String) -> Result<i64, Cow<'static, str>> {
        Err("bad".into())
    }

    #[task]
    pub(super) async fn of_box(text: String) -> Result<i64, Box<dyn Error + Send + Sync>> {
        if text.is_empty() {
            return Err("empty".into());
        }
        Ok(text.parse()?)
    }

    #[task(blocking)]
    pub(super) fn of_plain_box(text: String) -> Result<i64, Box<dyn Error>> {
        Ok(text.parse()?)
    }

    /// As `eyre::Report` is made.
    #[derive(Debug)]
    pub(super) struct Report(Box<dyn Error + Send + Sync>);

    impl Deref for Report {
        type Target = dyn Error + Send + Sync;

        fn deref(&self) -> &Self::Target {
            &*self.0
        }
    }

    impl fmt::Display for Report {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl<E: Error + Send + Sync + 'static> From<E> for Report {
        fn from(error: E) -> Self {
            Self(error.into())
        }
    }

    #[task]
    pub(super) async fn of_report(text: String) -> Result<i64, Report> {
        Ok(text.parse()?)
    }

    /// Each of them, within a `TaskError`.
    #[task]
    pub(super) async fn of_all(text: String) -> Result<i64, TaskError> {
        match &*text {
            "anyhow" => of_anyhow
                .call(String::new())
                .await
                .map_err(TaskError::from_boxed)?,
            "string" => of_string.call(text).await.map_err(TaskError::new)?,
            "box" => of_box
                .call(String::new())
                .await
                .map_err(TaskError::from_boxed)?,
            "plain box" => of_plain_box.call(text).map_err(TaskError::from_boxed)?,
            "report" => of_report.call(text).await.map_err(TaskError::from_boxed)?,
            _ => text.parse()?,
        };
        Ok(1)
    }

    /// What a `TaskError` asks for is asked for in a box as well.
    #[task(max_retries = 2)]
    pub(super) async fn asks(
        ctx: &TaskContext,
        what: String,
    ) -> Result<i64, Box<dyn Error + Send + Sync>> {
        match &*what {
            "replace" => ctx.replace(add.s(1, 2)),
            "fatal" => Err(TaskError::new("fatal").fatal().with_type("Fatal"))?,
            _ if ctx.attempt() < 3 => {
                let soon = ctx.retry().countdown(std::time::Duration::ZERO);
                Err(TaskError::from(soon))?
            }
            _ => Ok(3),
        }
    }
}

#[tokio::test]
async fn a_task_may_fail_with_any_error_a_text_or_a_box() {
    use errors::{of_all, of_anyhow, of_box, of_cow, of_plain_box, of_report, of_str, of_string};

    async fn failed<T: Task<Args = (String,), Output = i64>>(text: &str) -> (String, String) {
        let error = run::<T>((text.to_owned(),)).await.unwrap_err();
        (error.error_type().to_owned(), error.to_string())
    }
    let is = |(error_type, message): (String, String), expected: (&str, &str)| {
        assert_eq!((&*error_type, &*message), expected);
    };
    let number = "no number: invalid digit found in string";
    let digit = "invalid digit found in string";
    is(failed::<of_anyhow>("").await, ("Error", "empty"));
    is(failed::<of_anyhow>("x").await, ("Error", number));
    is(failed::<of_string>("x").await, ("TaskError", "bad x"));
    is(failed::<of_str>("x").await, ("TaskError", "bad"));
    is(failed::<of_cow>("x").await, ("TaskError", "bad"));
    is(failed::<of_box>("").await, ("Error", "empty"));
    is(failed::<of_box>("x").await, ("Error", digit));
    is(failed::<of_plain_box>("x").await, ("Error", digit));
    is(failed::<of_report>("x").await, ("Error", digit));
    is(failed::<of_all>("anyhow").await, ("Error", "empty"));
    is(
        failed::<of_all>("string").await,
        ("TaskError", "bad string"),
    );
    is(failed::<of_all>("box").await, ("Error", "empty"));
    is(failed::<of_all>("plain box").await, ("Error", digit));
    is(failed::<of_all>("report").await, ("Error", digit));
    is(failed::<of_all>("x").await, ("ParseIntError", digit));
    assert_eq!(run::<of_anyhow>(("7".to_owned(),)).await.unwrap(), 7);
}

#[tokio::test]
async fn a_task_that_fails_with_a_box_may_ask_for_what_a_task_error_asks_for() {
    use errors::asks;

    let app = App::in_memory().tasks(tasks![add, asks]);
    let app = app.start().await.unwrap();
    let asked = async |what: &str| {
        app.apply_async(asks.s(what.into()))
            .await
            .unwrap()
            .get()
            .await
    };
    assert_eq!(asked("replace").await.unwrap(), 3);
    assert_eq!(asked("retry").await.unwrap(), 3);
    match asked("fatal").await {
        Err(chordal::Error::Failed(failure)) => {
            assert_eq!((&*failure.error_type, failure.attempt), ("Fatal", 1));
        }
        other => panic!("{other:?}"),
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn two_tasks_of_one_name_are_told_apart_by_their_paths() {
    mod shop {
        #[chordal::task]
        pub(super) async fn pay() {}
    }
    mod bank {
        #[chordal::task]
        pub(super) async fn pay() {}
    }
    let app = App::in_memory().tasks(tasks![shop::pay, bank::pay]);
    let error = app.start().await.unwrap_err().to_string();
    for part in ["`pay`", "shop::pay`", "bank::pay`", "#[task(name = "] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_text_that_is_no_id_is_an_error_of_chordals() {
    let read = |text: &str| -> chordal::Result<chordal::Id> { text.parse() };
    let error = read("order 7").unwrap_err();
    assert!(
        matches!(&error, chordal::Error::Id(chordal::IdError::Invalid { text, .. }) if text == "order 7")
    );
    assert!(
        error.to_string().starts_with("`order 7` is not an id: "),
        "{error}"
    );
    assert!(read(&"9".repeat(1 << 20)).unwrap_err().to_string().len() < 10_000);
    let id = read("0190a1b2-c3d4-7e5f-8a6b-7c0000000000").unwrap();
    assert_eq!(read(&id.to_string()).unwrap(), id);
}
