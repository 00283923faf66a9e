//! Application data: what an app gives to its tasks beside their arguments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chordal::prelude::*;
use chordal::{
    AppBuilder, ContextError, DataType, Error, Parameter, StartError, SubmitError, Task,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A path under which a program may show the type to its own modules.
mod web {
    pub(super) use chordal::Data;
}

/// Cannot be stored.
struct Prices {
    cents: u64,
}

#[task]
async fn price(prices: Data<Prices>, items: u64) -> u64 {
    items * prices.cents
}

#[task(blocking)]
fn price_blocking(prices: chordal::Data<Prices>, items: u64) -> u64 {
    items * prices.cents
}

#[task]
async fn label(ctx: &TaskContext, prices: web::Data<Prices>, unit: Data<String>, n: u64) -> String {
    format!(
        "{} {} {unit}",
        ctx.attempt(),
        n * prices.cents,
        unit = *unit
    )
}

#[task(blocking)]
fn sum(prices: Data<Prices>, all: Results<u64>) -> Result<u64, TaskError> {
    let mut total = prices.cents;
    for n in all {
        total += n?;
    }
    Ok(total)
}

#[task]
async fn add_priced(prices: Data<Prices>, total: u64, items: u64) -> u64 {
    total + items * prices.cents
}

#[task]
async fn ask(ctx: &TaskContext) -> Result<u64, TaskError> {
    Ok(ctx.data::<Prices>()?.cents)
}

#[task]
async fn only_data(prices: Data<Prices>) -> u64 {
    prices.cents
}

fn with_data(builder: AppBuilder) -> AppBuilder {
    builder
        .data(Prices { cents: 10 })
        .data("EUR".to_owned())
        .tasks(tasks![
            price,
            price_blocking,
            label,
            sum,
            add_priced,
            ask,
            only_data
        ])
}

async fn each_task_gets_the_data(builder: AppBuilder) {
    let app = with_data(builder).start().await.unwrap();
    let canvas = group!(
        price.s(2) | label.partial(),
        group([price_blocking.s(1), price_blocking.s(2)]) | sum.partial(),
        group((1..=3).map(|n| price.s(n))).fold(0, add_priced),
        price.map([1, 2]),
        group([price.s(1)]) | price.each(),
        ask.s(),
        only_data.s(),
    );
    let values = app.apply_async(canvas).await.unwrap().get().await.unwrap();
    assert_eq!(values.0, "1 200 EUR");
    assert_eq!((values.1, values.2), (10 + 30, 600));
    assert_eq!((values.3, values.4), (vec![10, 20], vec![100]));
    assert_eq!((values.5, values.6), (10, 10));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn each_kind_of_task_gets_the_data() {
    each_task_gets_the_data(App::in_memory()).await;
}

#[tokio::test]
async fn each_kind_of_task_gets_the_data_in_eager_mode() {
    each_task_gets_the_data(App::eager()).await;
}

#[tokio::test]
async fn data_is_no_part_of_the_arguments() {
    let names: Vec<_> = price::PARAMS.iter().map(Parameter::name).collect();
    assert_eq!(names, ["items"]);
    let written: serde_json::Value =
        serde_json::from_str(&Canvas::from(price.s(3)).to_json().unwrap()).unwrap();
    assert_eq!(
        (&written["args"], &written["kwargs"]),
        (&json!([3]), &json!({}))
    );

    let app = with_data(App::in_memory()).start().await.unwrap();
    let by_name = Canvas::task("price", ()).with_kwargs(json!({"items": 3}));
    for canvas in [Canvas::task("price", (3,)), by_name] {
        assert_eq!(
            app.apply_async(canvas).await.unwrap().get().await.unwrap(),
            json!(30)
        );
    }
    for wrong in [Canvas::task("price", (1, 2)), Canvas::task("price", ())] {
        assert!(matches!(
            app.apply_async(wrong).await,
            Err(Error::Submit(SubmitError::Canvas { .. }))
        ));
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_run_after_a_restart_gets_the_data_of_the_new_app() {
    let dir = tempfile::tempdir().unwrap();
    let open = |cents| {
        App::open(dir.path().join("data"))
            .data(Prices { cents })
            .tasks(tasks![price])
    };
    let app = open(1).paused().start().await.unwrap();
    let id = app.apply_async(price.s(3)).await.unwrap().id();
    app.shutdown().await.unwrap();
    drop(app);
    let app = open(5).start().await.unwrap();
    let result = app.async_result::<u64>(id).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 15);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_app_without_the_data_of_a_task_does_not_start() {
    for builder in [App::in_memory(), App::eager()] {
        let builder = builder.data(Prices { cents: 1 });
        let error = builder
            .tasks(tasks![price, label])
            .start()
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Start(StartError::MissingData { task: "label", .. })
            ),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "task `label` takes application data of type `alloc::string::String`, which the app does not have: give it with `.data(…)`"
        );
    }
}

#[tokio::test]
async fn an_app_with_two_values_of_one_type_does_not_start() {
    for builder in [App::in_memory(), App::eager()] {
        let twice = builder.data(1_u64).data("one".to_owned()).data(2_u64);
        let error = twice.start().await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Start(StartError::DuplicateData { data: "u64" })
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("two values of type `u64`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_context_without_the_data_returns_an_error_that_names_the_type() {
    for builder in [App::in_memory(), App::eager()] {
        let app = builder
            .data(1_u64)
            .tasks(tasks![ask])
            .start()
            .await
            .unwrap();
        let failed = app.apply_async(ask.s()).await.unwrap().get().await;
        let Err(Error::Failed(failure)) = failed else {
            panic!("{failed:?}");
        };
        assert!(failure.message.contains("data::Prices`"), "{failure}");
        app.shutdown().await.unwrap();
    }
    let missing = TaskContext::detached().data::<Prices>();
    assert!(matches!(
        missing,
        Err(Error::Context(ContextError::MissingData { .. }))
    ));
}

#[tokio::test]
async fn a_function_that_is_called_directly_takes_the_data_as_a_parameter() {
    let prices = Data::new(Prices { cents: 4 });
    assert_eq!(price.call(prices.clone(), 2).await, 8);
    assert_eq!(price_blocking.call(prices.clone(), 2), 8);
    let (context, unit) = (TaskContext::detached(), Data::new("CHF".to_owned()));
    assert_eq!(label.call(&context, prices, unit, 1).await, "1 4 CHF");
}

#[test]
fn a_clone_is_the_same_value_and_debug_shows_none() {
    let secret = Data::new("secret".to_owned());
    assert!(std::ptr::eq(&*secret, &*secret.clone()));
    let builder = App::in_memory().data("secret".to_owned());
    let shown = format!("{secret:?} {builder:?}");
    assert!(
        !shown.contains("secret") && shown.contains("String"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_data_is_dropped_with_the_app() {
    struct Connection(Arc<AtomicBool>);
    impl Drop for Connection {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    for builder in [App::in_memory(), App::eager()] {
        let is_closed = Arc::new(AtomicBool::new(false));
        let app = builder
            .data(Connection(is_closed.clone()))
            .start()
            .await
            .unwrap();
        app.shutdown().await.unwrap();
        drop(app);
        assert!(is_closed.load(Ordering::SeqCst));
    }
}

/// Takes its data by hand.
struct ByHand;

impl Task for ByHand {
    type Args = (u64,);
    type Output = u64;
    const NAME: &'static str = "by_hand";
    const PARAMS: &'static [Parameter] = &[Parameter::required::<u64>("items")];
    const DATA: &'static [DataType] = &[DataType::of::<Prices>()];

    async fn run(context: TaskContext, (items,): (u64,)) -> Result<u64, TaskError> {
        Ok(items * context.data::<Prices>()?.cents)
    }
}

#[tokio::test]
async fn a_task_that_is_written_by_hand_declares_its_data() {
    let error = App::in_memory()
        .tasks(tasks![ByHand])
        .start()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Start(StartError::MissingData {
                task: "by_hand",
                ..
            })
        ),
        "{error}"
    );
    let app = App::in_memory()
        .data(Prices { cents: 3 })
        .tasks(tasks![ByHand])
        .start()
        .await
        .unwrap();
    let result = app
        .apply_async(Signature::full::<ByHand>((2,)))
        .await
        .unwrap();
    assert_eq!(result.get().await.unwrap(), 6);
    app.shutdown().await.unwrap();
}

mod own {
    use super::*;

    /// A program's own type, which is an argument like any other.
    #[derive(Serialize, Deserialize)]
    pub(super) struct Data {
        pub(super) items: u64,
    }

    #[task]
    pub(super) async fn count(prices: chordal::Data<Prices>, data: Data) -> u64 {
        data.items * prices.cents
    }
}

#[tokio::test]
async fn a_type_without_a_parameter_that_is_called_data_is_an_argument() {
    let builder = App::in_memory().data(Prices { cents: 3 });
    let app = builder.tasks(tasks![own::count]).start().await.unwrap();
    let count = own::count.s(own::Data { items: 2 });
    assert_eq!(
        app.apply_async(count).await.unwrap().get().await.unwrap(),
        6
    );
    app.shutdown().await.unwrap();
}
