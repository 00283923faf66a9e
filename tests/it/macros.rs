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
