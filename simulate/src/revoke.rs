//! Callers that revoke: the nodes that they revoke, the times, and the answers, which must hold.

use chordal::{App, Error, Id, IdError, RevokeOutcome};

use crate::dice::Dice;
use crate::races;
use crate::world::World;

/// A revocation of a flow or a part of it, after some turns of its caller.
#[derive(Debug)]
struct Revocation {
    turns: usize,
    /// The number of a node; 0 is the whole flow.
    part: u8,
}

/// A caller's knowledge of its revocations.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The number of requests.
    times: u32,
    /// The node of the first answer, and the answer.
    answer: Option<(Id, RevokeOutcome)>,
}

impl Revocation {
    /// Draws the revocation of a flow. Two of seven seeds have some; the others stay as they were
    /// before revocations existed.
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

/// Revokes the flow or a part of it, if the plan says so.
pub(crate) async fn ask(world: &World, app: &App, flow: usize, root: Id) -> Result<(), Error> {
    let revocation = Revocation::of(world.seed, flow);
    let Some(Revocation { turns, part }) = revocation else {
        return Ok(());
    };
    // A crash may undo an answer in this mode.
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
    world.log(|| format!("flow {flow}: revoke {id}"));
    let answer = match app.revoke(id).await {
        Ok(answer) => answer,
        Err(Error::Id(IdError::Unknown { .. })) => return Ok(()),
        Err(error) => return Err(error),
    };
    world.log(|| format!("flow {flow}: answered {answer:?}"));
    let before = world.asked[flow].borrow_mut().answer.replace((id, answer));
    match before {
        Some((_, before)) if answer != before && answer != RevokeOutcome::AlreadyDone => {
            world.report_fault(format!("flow {flow} was {before:?}, and is {answer:?}"));
        }
        Some(before) => world.asked[flow].borrow_mut().answer = Some(before),
        None => {}
    }
    if answer == RevokeOutcome::BeforeStart {
        let entered = world.entered.borrow();
        let mut entered = entered.iter().map(|(task, ..)| *task);
        if entered.any(|task| task == id || task.root() == id) {
            world.report_fault(format!("flow {flow} had begun: {id}"));
        }
    }
    if answer != RevokeOutcome::AlreadyDone {
        world.revoked.borrow_mut().insert(id);
    }
    let outcome = world.submitted[flow].borrow().reported.clone();
    if let Some(outcome) = outcome.filter(|_| id == root) {
        check(world, flow, &outcome, times);
    }
    // The end of a part is on record when the answer arrives.
    if answer == RevokeOutcome::AlreadyDone
        && let Ok(part) = app.async_result::<serde_json::Value>(id).await
        && !part.ready().await?
    {
        world.report_fault(format!("flow {flow} has not ended: {id}"));
    }
    Ok(())
}

/// Returns the id of node `part` of a workflow, which may not exist.
fn node(root: Id, part: u8) -> Id {
    let text = root.to_string();
    let id = format!("{}{part:02x}", &text[..text.len() - 2]);
    id.parse().expect("its number is at its end")
}

/// Returns whether a revocation of a part of this flow was requested: then it may not end as the
/// reference says.
pub(crate) fn is_asked(world: &World, flow: usize) -> bool {
    world.asked[flow].borrow().times > 0
}

/// Checks the outcome of a flow against the answer to its revocation.
pub(crate) fn check_end(world: &World, flow: usize, outcome: &Result<serde_json::Value, String>) {
    let times = world.asked[flow].borrow().times;
    check(world, flow, outcome, times);
}

fn check(world: &World, flow: usize, outcome: &Result<serde_json::Value, String>, times: u32) {
    let Some((id, answer)) = world.asked[flow].borrow().answer else {
        return;
    };
    if id != id.root() {
        return;
    }
    let is_revoked = *outcome == Err("revoked".to_owned());
    let is_true = match answer {
        // The caller's own earlier request may have ended the flow.
        RevokeOutcome::AlreadyDone => {
            *outcome == world.plan.flows[flow].outcome
                || races::is_won(&world.plan, flow, outcome)
                || times > 1
        }
        RevokeOutcome::BeforeStart | RevokeOutcome::Cancelling => is_revoked,
    };
    if !is_true {
        world.report_fault(format!(
            "flow {flow} was answered {answer:?}, and ended as {outcome:?}"
        ));
    }
}

/// Checks that a task that starts is not revoked.
pub(crate) fn check_start(world: &World, task: Id) {
    let revoked = world.revoked.borrow();
    if revoked.contains(&task) || revoked.contains(&task.root()) {
        world.report_fault(format!("{task} is revoked, and was called"));
    }
}
