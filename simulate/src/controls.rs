//! Pauses: in every seventh seed an operator pauses, resizes and resumes queues at any time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use chordal::{App, ControlTarget, DEFAULT_QUEUE, Error};

use crate::dice::Dice;
use crate::plan::QUEUES;
use crate::world::World;

/// The queues that are paused for certain: the call has returned, and none has resumed them.
#[derive(Debug, Default)]
pub(crate) struct Paused(RefCell<BTreeSet<&'static str>>);

impl Paused {
    /// Returns a fault if a task of a paused queue starts.
    pub(crate) fn check_start(&self, queue: Option<&str>) -> Option<String> {
        let queue = queue.unwrap_or(DEFAULT_QUEUE);
        let is_paused = self.0.borrow().contains(queue);
        is_paused.then(|| format!("a task of the paused queue {queue} starts"))
    }

    /// Forgets all pauses: the store may have lost them.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Acts as an operator for one life, and leaves no queue paused unless the life ends.
pub(crate) async fn operate(world: &Rc<World>, app: &App) -> Result<(), Error> {
    if world.seed % 7 != 2 {
        return Ok(());
    }
    let dice = Dice::new(world.seed.rotate_left(24) ^ u64::from(world.lives.get()));
    resume_all(world, app).await?;
    for _ in 0..=dice.roll(3) {
        turns(world, dice.roll(8)).await;
        let queue = dice.pick(&[DEFAULT_QUEUE, QUEUES[0], QUEUES[1]]);
        if dice.percent(40) {
            // (Never more than the code says, which all starts are held to.)
            let slots = dice.pick(&[Some(1), None]);
            app.set_concurrency(queue, slots).await?;
            world.log(|| format!("{queue} has {slots:?} slots"));
            continue;
        }
        app.pause_queue(queue).await?;
        world.log(|| format!("{queue} is paused"));
        // What had its slot before has started by the next turn.
        world.turn().await;
        world.paused.0.borrow_mut().insert(queue);
        turns(world, dice.roll(30)).await;
        world.log(|| format!("{queue} is resumed"));
        world.paused.0.borrow_mut().remove(queue);
        app.resume_queue(queue).await?;
    }
    Ok(())
}

/// Resumes what an earlier life has left paused, and checks that nothing paused was forgotten.
async fn resume_all(world: &World, app: &App) -> Result<(), Error> {
    let mut paused = BTreeSet::new();
    for control in app.controls()? {
        if let ControlTarget::Queue(queue) = control.target
            && control.is_paused
        {
            paused.insert(queue);
        }
    }
    let certain = world.paused.0.borrow().clone();
    if let Some(queue) = certain.iter().find(|queue| !paused.contains(**queue)) {
        world.report_fault(format!("the pause of {queue} is forgotten"));
    }
    turns(world, 10).await;
    world.paused.clear();
    for queue in paused {
        app.resume_queue(queue).await?;
    }
    Ok(())
}

async fn turns(world: &World, turns: usize) {
    for _ in 0..turns {
        world.turn().await;
    }
}
