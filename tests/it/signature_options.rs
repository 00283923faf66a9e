//! What a signature sets for its tasks alone: a rate, the key for limits, and stamps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{Clock, Error, RateLimit, SubmitError};

use crate::calls::{call, calls, reached};
use crate::recovery::within;

/// A period is over a moment after its end.
const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[task(name = "signature.plain")]
async fn plain(test: String) {
    call(&test);
}

#[task(name = "signature.other")]
async fn other(test: String) {
    call(&test);
}

#[task(name = "signature.limited", rate_limit = "2/s", burst = 2)]
async fn limited(test: String) {
    call(&test);
}

#[task(name = "signature.by_tenant", rate_limit = "1/s", limit_by = "tenant")]
async fn by_tenant(test: String, tenant: String) {
    let _ = tenant;
    call(&test);
}

#[task(name = "signature.shared", limit = "signature shared")]
async fn shared(test: String) {
    call(&test);
}

#[task(name = "signature.one", concurrency = 1)]
async fn one(test: String) {
    call(&test);
    reached(&format!("{test} open"), 1).await;
}

#[task(name = "signature.nothing")]
async fn nothing() {}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

async fn start(store: &MemoryStore, clock: &Clock) -> App {
    App::with_store(store.clone())
        .clock(clock.clone())
        .limit("signature shared", RateLimit::per_second(1))
        .grace(Duration::ZERO)
        .tasks(tasks![
            plain, other, limited, by_tenant, shared, one, nothing, stamps, asks, submits,
            replaced, heads, log, mourn, fail, sum
        ])
        .start()
        .await
        .unwrap()
}

/// Waits until all that the app was told is done, as far as it can be.
async fn settled(app: &App) {
    for _ in 0..3 {
        let ended = app.apply_async(nothing.s()).await.unwrap();
        within(ended.get()).await.unwrap();
    }
}

async fn submit(app: &App, signature: Signature<(), ()>) {
    let _ = app.apply_async(signature).await.unwrap();
}

#[tokio::test]
async fn a_rate_of_a_signature_is_shared_by_the_calls_of_its_task_with_the_same_rate_and_key() {
    let clock = clock();
    let app = start(&MemoryStore::new(), &clock).await;
    let polite = |test: &str| plain.s(test.into()).rate_limit("1/s");
    for _ in 0..3 {
        submit(&app, polite("rate")).await;
        submit(&app, polite("rate acme").limit_key("acme")).await;
        submit(&app, plain.s("rate 2".into()).rate_limit("2/s")).await;
        submit(&app, other.s("rate other".into()).rate_limit("1/s")).await;
        submit(&app, plain.s("rate none".into())).await;
    }
    within(reached("rate none", 3)).await;
    let counts = || ["rate", "rate acme", "rate 2", "rate other"].map(calls);
    settled(&app).await;
    assert_eq!(counts(), [1, 1, 1, 1]);
    clock.advance(SECOND / 2 + MOMENT);
    settled(&app).await;
    assert_eq!(counts(), [1, 1, 2, 1]);
    clock.advance(SECOND / 2 + MOMENT);
    settled(&app).await;
    assert_eq!(counts(), [2, 2, 3, 2]);
    clock.advance(SECOND + MOMENT);
    for (test, all) in [
        ("rate", 3),
        ("rate acme", 3),
        ("rate 2", 3),
        ("rate other", 3),
    ] {
        within(reached(test, all)).await;
    }
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_rate_of_a_signature_holds_over_a_restart_and_inside_canvases() {
    let (clock, store) = (clock(), MemoryStore::new());
    let app = start(&store, &clock).await;
    let members = (0..3).map(|_| plain.si("restart".into()));
    let chain = (plain.si("restart".into()) | group(members)).rate_limit("1/s");
    let all = app.apply_async(chain).await.unwrap();
    let id = all.id();
    within(reached("restart", 1)).await;
    settled(&app).await;
    within(app.shutdown()).await.unwrap();
    let app = start(&store, &clock).await;
    settled(&app).await;
    for started in 1..4 {
        settled(&app).await;
        assert_eq!(calls("restart"), started);
        clock.advance(SECOND + MOMENT);
        within(reached("restart", started + 1)).await;
    }
    let all = app.async_result::<Vec<()>>(id).await.unwrap();
    assert_eq!(within(all.get()).await.unwrap().len(), 3);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_rate_of_a_signature_is_besides_the_limits_of_its_task() {
    let clock = clock();
    let app = start(&MemoryStore::new(), &clock).await;
    let slow = || limited.s("besides slow".into()).rate_limit("1/m");
    for _ in 0..2 {
        submit(&app, slow()).await;
        submit(&app, limited.s("besides".into())).await;
    }
    let counts = || ["besides slow", "besides"].map(calls);
    within(reached("besides slow", 1)).await;
    settled(&app).await;
    // Both starts of this second are used up: one each.
    assert_eq!(counts(), [1, 1]);
    clock.advance(SECOND + MOMENT);
    within(reached("besides", 2)).await;
    settled(&app).await;
    assert_eq!(counts(), [1, 2]);
    clock.advance(59 * SECOND);
    within(reached("besides slow", 2)).await;
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_given_key_divides_the_limits_of_a_task_and_not_those_it_shares() {
    let clock = clock();
    let app = start(&MemoryStore::new(), &clock).await;
    for key in ["acme", "umbrella"] {
        let test = |of: &str| format!("given {of} {key}");
        for _ in 0..3 {
            submit(&app, limited.s(test("limited")).limit_key(key)).await;
            // It takes the place of the argument.
            let tenant = by_tenant.s(test("by tenant"), "same".into());
            submit(&app, tenant.limit_key(key)).await;
            submit(&app, shared.s("given shared".into()).limit_key(key)).await;
            submit(&app, one.s(test("one")).limit_key(key)).await;
        }
    }
    let all = |of: &str| ["acme", "umbrella"].map(|key| calls(&format!("given {of} {key}")));
    within(reached("given one acme", 1)).await;
    within(reached("given one umbrella", 1)).await;
    settled(&app).await;
    assert_eq!(all("limited"), [2, 2]);
    assert_eq!(all("by tenant"), [1, 1]);
    assert_eq!(all("one"), [1, 1]);
    assert_eq!(calls("given shared"), 1);
    for key in ["acme", "umbrella"] {
        call(&format!("given one {key} open"));
        within(reached(&format!("given one {key}"), 3)).await;
    }
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_rate_and_what_is_too_large_is_refused() {
    let app = start(&MemoryStore::new(), &clock()).await;
    let refused = async |signature: Signature<(), Vec<()>>| {
        let error = app.apply_async(signature).await.unwrap_err();
        match error {
            Error::Submit(SubmitError::Canvas { path, reason }) => format!("{path}: {reason}"),
            error => panic!("{error:?}"),
        }
    };
    let members = |second: Signature<(), ()>| group([plain.s("refused".into()), second]);
    let task = || plain.s("refused".into());
    assert_eq!(
        refused(members(task().rate_limit("ten a minute"))).await,
        "group[1]: `ten a minute` is not a rate: write starts and a period, such as \"10/s\", \
         \"10/m\" or \"100/15s\""
    );
    let none = RateLimit::per_second(0);
    assert_eq!(
        refused(members(task().rate_limit(none))).await,
        "group[1]: a rate limit allows at least 1 start"
    );
    assert_eq!(
        refused(members(task().stamp("", "acme"))).await,
        "group[1]: a stamp needs a name"
    );
    assert_eq!(
        refused(members(task().stamp("tenant", "x".repeat(1_019)))).await,
        "group[1]: the stamps of a task have at most 1024 bytes together, and not 1025"
    );
    assert_eq!(calls("refused"), 0);
    within(app.shutdown()).await.unwrap();
}

type StampsOf = BTreeMap<String, String>;

#[task(name = "signature.stamps")]
async fn stamps(ctx: &TaskContext) -> StampsOf {
    ctx.stamps().clone()
}

#[task(name = "signature.asks")]
async fn asks(ctx: &TaskContext) -> Result<StampsOf, TaskError> {
    Ok(ctx.call("stamps", stamps.s().stamp("call", "1")).await?)
}

#[task(name = "signature.submits")]
async fn submits(ctx: &TaskContext) -> Result<StampsOf, TaskError> {
    let submitted = ctx.apply_async(stamps.s()).await?;
    Ok(submitted.get().await?)
}

#[task(name = "signature.replaced")]
async fn replaced(ctx: &TaskContext) -> Result<StampsOf, TaskError> {
    ctx.replace(stamps.s().stamp("replaced", "1"))
}

/// Adds a member to its group.
#[task(name = "signature.heads")]
async fn heads(ctx: &TaskContext) -> Result<StampsOf, TaskError> {
    ctx.add_to_chord(stamps.s().stamp("added", "1"))?;
    Ok(ctx.stamps().clone())
}

#[task(name = "signature.log")]
async fn log(ctx: &TaskContext, value: StampsOf) -> StampsOf {
    let _ = value;
    ctx.stamps().clone()
}

#[task(name = "signature.mourn")]
async fn mourn(ctx: &TaskContext, failure: TaskFailure) -> StampsOf {
    let _ = failure;
    ctx.stamps().clone()
}

#[task(name = "signature.fail")]
async fn fail() -> Result<StampsOf, TaskError> {
    Err(TaskError::new("no").fatal())
}

#[task(name = "signature.sum")]
async fn sum(ctx: &TaskContext, all: Vec<StampsOf>) -> (StampsOf, Vec<StampsOf>) {
    (ctx.stamps().clone(), all)
}

fn of(all: &[(&str, &str)]) -> StampsOf {
    let all = all.iter();
    all.map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

async fn all_inherit(app: &App) {
    let stamped = |signature: Signature<(), StampsOf>| signature.stamp("tenant", "acme");
    for (signature, expected) in [
        (stamps.s(), of(&[("tenant", "acme")])),
        (stamps.s().stamp("tenant", "own"), of(&[("tenant", "acme")])),
        (asks.s(), of(&[("call", "1"), ("tenant", "acme")])),
        (submits.s(), of(&[("tenant", "acme")])),
        (replaced.s(), of(&[("replaced", "1"), ("tenant", "acme")])),
    ] {
        let result = app.apply_async(stamped(signature)).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), expected);
    }
    let members = group([heads.s(), stamps.s().stamp("tenant", "inner")]);
    let chord = chord(members, sum.partial()).stamp("tenant", "acme");
    let chord = app.apply_async(chord).await.unwrap();
    let (body, members) = within(chord.get()).await.unwrap();
    assert_eq!(body, of(&[("tenant", "acme")]));
    let expected = [
        of(&[("tenant", "acme")]),
        of(&[("added", "1"), ("tenant", "acme")]),
        of(&[("tenant", "inner")]),
    ];
    assert_eq!(members, expected);
    assert_eq!(chord.stamps().await.unwrap(), of(&[]));
    let callbacks = [
        stamps.s().link(log.partial().stamp("log", "1")),
        fail.s().link_error(mourn.partial().stamp("log", "1")),
    ];
    for signature in callbacks {
        let result = app.apply_async(stamped(signature)).await.unwrap();
        within(result.at_rest()).await.unwrap();
        let callback = &result.children::<StampsOf>().await.unwrap()[0];
        let expected = of(&[("log", "1"), ("tenant", "acme")]);
        assert_eq!(within(callback.get()).await.unwrap(), expected);
        assert_eq!(callback.stamps().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn all_work_in_a_canvas_and_all_that_it_starts_has_its_stamps() {
    let app = start(&MemoryStore::new(), &clock()).await;
    all_inherit(&app).await;
    within(app.shutdown()).await.unwrap();
}

#[test]
fn an_eager_app_stamps_the_same() {
    let work = async {
        let app = App::eager().tasks(tasks![
            stamps, asks, submits, replaced, heads, log, mourn, fail, sum
        ]);
        let app = app.start().await.unwrap();
        all_inherit(&app).await;
        app.shutdown().await.unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}

#[tokio::test]
async fn the_stamps_of_a_large_group_are_those_that_all_of_its_members_have() {
    let store = MemoryStore::new();
    let app = start(&store, &clock()).await;
    let members = (0..5_000).map(|n| {
        let task = stamps.s().stamp("batch", "7");
        match n {
            4_999 => task.stamp("last", "1"),
            _ => task,
        }
    });
    let all = app.apply_async(group(members).stamp("tenant", "acme"));
    let all = all.await.unwrap();
    let values = within(all.get()).await.unwrap();
    let common = of(&[("batch", "7"), ("tenant", "acme")]);
    assert_eq!(values[0], common);
    assert_eq!(all.stamps().await.unwrap(), common);
    let id = all.id();
    within(app.shutdown()).await.unwrap();
    let app = start(&store, &clock()).await;
    let all = app.async_result::<Vec<StampsOf>>(id).await.unwrap();
    assert_eq!(all.stamps().await.unwrap(), common);
    within(app.shutdown()).await.unwrap();
}
