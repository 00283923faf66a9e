//! Callers that revoke: what they ask for, and when; what they are told must hold.

use chordal::{App, Error, Id, RevokeOutcome};

use crate::dice::Dice;
use crate::world::World;

/// What is asked to be revoked of a flow, after so many turns of whoever asks.
#[derive(Debug)]
struct Revocation {
    turns: usize,
    /// The number of a node; 0 is all of it.
    part: u8,
}

/// What a caller knows of it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// How often it has asked.
    times: u32,
    /// What it was told, of what.
    told: Option<(Id, RevokeOutcome)>,
}

impl Revocation {
    /// In two of seven seeds there are some: the others stay what they were before there were any.
    fn of(seed: u64, flow: usize) -> Option<Self> {
        let dice = Dice::new(seed ^ (flow as u64).rotate_left(32));
        let revokes = seed % 7 > 4 && dice.percent(60);
        revokes.then(|| Self {
            turns: dice.roll(dice.pick(&[1, 5, 20])),
            part: match dice.percent(50) {
                true => 0,
                false => 1 + dice.roll(12) as u8,
            },
        })
    }
}

/// Asks, if the flow has one who does.
pub(crate) async fn ask(world: &World, app: &App, flow: usize, root: Id) -> Result<(), Error> {
    let revocation = Revocation::of(world.seed, flow);
    let Some(Revocation { turns, part }) = revocation else {
        return Ok(());
    };
    // What was told may be taken back by a crash there.
    if world.plan.settings.buffered {
        return Ok(());
    }
    let id = node(root, part);
    for _ in 0..turns {
        world.turn().await;
    }
    let times = {
        let mut asked = world.asked[flow].borrow_mut();
        asked.times += 1;
        asked.times
    };
    world.tell(|| format!("flow {flow}: revoke {id}"));
    let told = match app.revoke(id).await {
        Ok(told) => told,
        Err(Error::UnknownId { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    world.tell(|| format!("flow {flow}: told {told:?}"));
    let before = world.asked[flow].borrow_mut().told.replace((id, told));
    match before {
        Some((_, before)) if told != before && told != RevokeOutcome::AlreadyDone => {
            world.report_fault(format!("flow {flow} was {before:?}, and is {told:?}"));
        }
        Some(before) => world.asked[flow].borrow_mut().told = Some(before),
        None => {}
    }
    if told == RevokeOutcome::BeforeStart {
        let entered = world.entered.borrow();
        let mut entered = entered.iter().map(|(task, ..)| *task);
        if entered.any(|task| task == id || task.root() == id) {
            world.report_fault(format!("flow {flow} had begun: {id}"));
        }
    }
    if told != RevokeOutcome::AlreadyDone {
        world.revoked.borrow_mut().insert(id);
    }
    let outcome = world.submitted[flow].borrow().told.clone();
    if let Some(outcome) = outcome.filter(|_| id == root) {
        check(world, flow, &outcome, times);
    }
    // Of a part: as it is told, it is on record.
    if told == RevokeOutcome::AlreadyDone
        && let Ok(part) = app.async_result::<serde_json::Value>(id).await
        && !part.ready().await?
    {
        world.report_fault(format!("flow {flow} has not ended: {id}"));
    }
    Ok(())
}

/// Node `part` of a workflow, if it has so many.
fn node(root: Id, part: u8) -> Id {
    let text = root.to_string();
    let id = format!("{}{part:02x}", &text[..text.len() - 2]);
    id.parse().expect("its number stands at its end")
}

/// Says whether anybody has asked for something of this flow to be revoked: it may not end as the
/// reference says.
pub(crate) fn is_asked(world: &World, flow: usize) -> bool {
    world.asked[flow].borrow().times > 0
}

/// How a flow has ended of which something was to be revoked.
pub(crate) fn check_end(world: &World, flow: usize, outcome: &Result<serde_json::Value, String>) {
    let times = world.asked[flow].borrow().times;
    check(world, flow, outcome, times);
}

fn check(world: &World, flow: usize, outcome: &Result<serde_json::Value, String>, times: u32) {
    let Some((id, told)) = world.asked[flow].borrow().told else {
        return;
    };
    if id != id.root() {
        return;
    }
    let is_revoked = *outcome == Err("revoked".to_owned());
    let is_true = match told {
        // It may be its own earlier question that has ended it.
        RevokeOutcome::AlreadyDone => *outcome == world.plan.flows[flow].outcome || times > 1,
        RevokeOutcome::BeforeStart | RevokeOutcome::Cancelling => is_revoked,
    };
    if !is_true {
        world.report_fault(format!(
            "flow {flow} was told {told:?}, and ended as {outcome:?}"
        ));
    }
}

/// What was revoked starts no more.
pub(crate) fn check_start(world: &World, task: Id) {
    let revoked = world.revoked.borrow();
    if revoked.contains(&task) || revoked.contains(&task.root()) {
        world.report_fault(format!("{task} is revoked, and was called"));
    }
}
