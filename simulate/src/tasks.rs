//! The tasks of a simulation. Each behaves as its role says.

use chordal::TaskEntry;
use chordal::prelude::*;
use serde_json::Value;

use crate::limits;
use crate::model::{Acc, Form, fold_in, give};
use crate::plan::{Detour, End};
use crate::progress;
use crate::world::{self, Presence};

pub(crate) fn all() -> [TaskEntry; 10] {
    tasks![
        source, relay, blocking, limited, sharing, keyed, calling, replaced, adding, fold
    ]
}

#[task(name = "property.source")]
pub(crate) async fn source(ctx: &TaskContext, key: u64, fails: bool) -> Result<Value, TaskError> {
    let _presence = attend(ctx, key).await?;
    end(ctx, key, give(None, key, fails)).await
}

#[task(name = "property.relay")]
pub(crate) async fn relay(
    ctx: &TaskContext,
    input: Value,
    key: u64,
    fails: bool,
) -> Result<Value, TaskError> {
    let _presence = attend(ctx, key).await?;
    end(ctx, key, give(Some(&input), key, fails)).await
}

#[task(name = "simulate.blocking", blocking)]
pub(crate) fn blocking(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    let _presence = world::enter(ctx, key, true);
    give(None, key, false).map_err(TaskError::new)
}

/// Under the [limits](crate::limits) of its own and of all.
#[task(
    name = "simulate.limited",
    rate_limit = "2/3s",
    limit = "simulate.shared"
)]
async fn limited(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    world::start_limited(ctx, "simulate.limited", None);
    let _presence = attend(ctx, key).await?;
    end(ctx, key, give(None, key, false)).await
}

#[task(name = "simulate.sharing", limit = "simulate.shared")]
async fn sharing(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    world::start_limited(ctx, limits::SHARING, Some(limits::tenant_of(key)));
    let _presence = attend(ctx, key).await?;
    end(ctx, key, give(None, key, false)).await
}

/// Each tenant has a rate, and one attempt at once.
#[task(
    name = "simulate.keyed",
    rate_limit = "1/2s",
    limit_by = "tenant",
    concurrency = 1,
    concurrency_by = "tenant"
)]
async fn keyed(ctx: &TaskContext, key: u64, tenant: u64) -> Result<Value, TaskError> {
    world::start_limited(ctx, limits::KEYED, Some(tenant));
    let _tenant = world::enter_as(tenant);
    let _presence = attend(ctx, key).await?;
    end(ctx, key, give(None, key, false)).await
}

#[task(name = "property.calling")]
async fn calling(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    let presence = attend(ctx, key).await?;
    let callee = world::now(|world| match &world.plan.nodes[&key].form {
        Form::Calling { callee, .. } => world.canvas(callee),
        other => unreachable!("{other:?} calls"),
    });
    // The task holds no slot while it waits.
    drop(presence);
    let called: Value = ctx.call("callee", callee).await?;
    give(Some(&called), key, false).map_err(TaskError::new)
}

#[task(name = "property.replaced")]
async fn replaced(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    let _presence = attend(ctx, key).await?;
    ctx.replace(world::now(|world| match &world.plan.nodes[&key].form {
        Form::Replaced { by, .. } => world.canvas(by),
        other => unreachable!("{other:?} is replaced"),
    }))
}

#[task(name = "property.adding")]
async fn adding(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    let _presence = attend(ctx, key).await?;
    let added: Vec<Canvas> = world::now(|world| match &world.plan.nodes[&key].form {
        Form::Adding { added, .. } => added.iter().map(|node| world.canvas(node)).collect(),
        other => unreachable!("{other:?} adds"),
    });
    for canvas in added {
        ctx.add_to_chord(canvas)?;
    }
    give(None, key, false).map_err(TaskError::new)
}

#[task(name = "property.fold")]
async fn fold(acc: Acc, item: Value) -> Result<Acc, TaskError> {
    if let Some(turn) = world::now(|world| world.dice.percent(20).then(|| world.turn())) {
        turn.await;
    }
    fold_in(&acc, &item).map_err(TaskError::new)
}

/// Starts, waits as its role says, and fails as often as it says.
async fn attend(ctx: &TaskContext, key: u64) -> Result<Presence, TaskError> {
    let presence = world::enter(ctx, key, false);
    let role = world::now(|world| world.plan.roles[&key].clone());
    let turns = role.pauses.len();
    for (turn, pause) in role.pauses.into_iter().enumerate() {
        world::now(|world| progress::report(world.seed, ctx, turn, turns));
        match pause {
            None => world::now(|world| world.turn()).await,
            Some(ms) => world::now(|world| world.sleep(ms)).await,
        }
    }
    world::now(|world| progress::report(world.seed, ctx, turns, turns));
    match world::now(|world| world.next_detour(ctx.id(), &role.detours)) {
        None => Ok(presence),
        Some(Detour::Retry(ms)) => {
            let delay = std::time::Duration::from_millis(ms);
            Err(
                match world::now(|world| progress::asks_for_free_retries(world.seed)) {
                    true => TaskError::retry_after(delay).without_counting(),
                    false => TaskError::retry("not yet", delay),
                },
            )
        }
        Some(Detour::Error) => Err(TaskError::new("not yet")),
        Some(Detour::Panic) => panic!("boom, but only once"),
        Some(Detour::Overrun) => std::future::pending().await,
    }
}

async fn end(
    ctx: &TaskContext,
    key: u64,
    outcome: Result<Value, String>,
) -> Result<Value, TaskError> {
    let role_end = world::now(|world| world.plan.roles[&key].end);
    match (role_end, outcome) {
        (End::Overrun, _) => std::future::pending().await,
        (End::Panic, Err(why)) => panic!("{why}"),
        (End::Exhausted, Err(why)) => Err(TaskError::new(why)),
        (_, Err(why)) => Err(TaskError::new(why).fatal()),
        (End::Listens, Ok(value)) => {
            ctx.soft_time_limit().await;
            Ok(value)
        }
        (_, Ok(value)) => Ok(value),
    }
}
