//! Lookups: callers that look for a flow while it is swept. They find it whole, or not at all.

use chordal::{App, Error, Id};
use serde_json::Value;

use crate::dice::Dice;
use crate::life;
use crate::world::World;

/// How long after its end a result is swept at the earliest, in milliseconds, whatever its retention.
const SWEPT_AFTER_MS: u64 = 100;

/// Returns how long a result is kept, in milliseconds, in every fourth seed: the others keep theirs to the end, and
/// their runs stay what they were before there were lookups.
pub(crate) fn short_retention_ms(seed: u64) -> Option<u64> {
    let dice = Dice::new(seed.rotate_left(48) ^ 7);
    let retention_ms = dice.pick(&[0, 150, 3_000]);
    seed.is_multiple_of(4).then_some(retention_ms)
}

/// Looks a few times for a flow that has come to rest and has no handle.
pub(crate) async fn look(world: &World, app: &App, flow: usize, id: Id) -> Result<(), Error> {
    let Some(retention_ms) = short_retention_ms(world.seed) else {
        return Ok(());
    };
    let dice = Dice::new(world.seed ^ (flow as u64).rotate_left(24));
    let swept_after_ms = retention_ms.max(SWEPT_AFTER_MS);
    world
        .sleep(swept_after_ms + dice.pick(&[0, 0, 1, 40]))
        .await;
    for _ in 0..1 + dice.roll(12) {
        world.turn().await;
        match app.async_result::<Value>(id).await {
            Ok(result) => {
                // What has a handle is kept.
                let told = life::outcome(&result).await?;
                result.at_rest().await?;
                if world.submitted[flow].borrow().told.as_ref() != Some(&told) {
                    world.report_fault(format!("flow {flow} is found to have ended as {told:?}"));
                }
            }
            Err(Error::UnknownId { .. }) => {
                world.tell(|| format!("flow {flow} is gone"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
