//! Races: groups that end with their first values. Every fifth seed has some among its lazy and its
//! ranked groups; the runs of the others stay as they were before policies existed.

use chordal::{Canvas, Id};
use serde_json::Value;

use crate::dice::Dice;
use crate::plan::Plan;
use crate::world::World;

/// Returns how many values the group of these tasks waits for, if it is a race.
pub(crate) fn wanted(plan: &Plan, keys: &[u64]) -> Option<usize> {
    // A crash may undo a verdict in this mode, and the next one may be another.
    if plan.seed % 5 != 3 || plan.settings.buffered {
        return None;
    }
    let dice = Dice::new(plan.seed.rotate_left(24) ^ keys.first()?);
    dice.percent(80).then(|| 1 + dice.roll(keys.len()))
}

/// Sets the policy of the group of these tasks.
pub(crate) fn with_policy(plan: &Plan, keys: &[u64], group: Canvas) -> Canvas {
    match wanted(plan, keys) {
        Some(k) => group.first(k),
        None => group,
    }
}

/// Returns whether a flow may end so: with as many of its values as it waits for, in member order.
pub(crate) fn is_won(plan: &Plan, flow: usize, outcome: &Result<Value, String>) -> bool {
    let flow = &plan.flows[flow];
    let (Some(k), Ok(Value::Array(values)), Ok(Value::Array(all))) =
        (plan.race(flow), outcome, &flow.outcome)
    else {
        return false;
    };
    let mut left = all.iter();
    values.len() == k && values.iter().all(|value| left.any(|other| other == value))
}

/// Checks that a task that starts is not a member of a race that has ended.
pub(crate) fn check_start(world: &World, task: Id) {
    for (number, flow) in world.plan.flows.iter().enumerate() {
        let submitted = world.submitted[number].borrow();
        if submitted.id == Some(task.root())
            && submitted.reported.is_some()
            && world.plan.race(flow).is_some()
        {
            world.report_fault(format!("flow {number} has ended, and starts {task}"));
        }
    }
}
