//! Lookups: callers that look up a flow while it is swept. They find it complete, or not at all.

use chordal::{App, Error, Id, IdError};
use serde_json::Value;

use crate::dice::Dice;
use crate::life;
use crate::world::World;

/// The earliest time after its end at which a result is swept, in milliseconds, whatever its
/// retention.
const SWEPT_AFTER_MS: u64 = 100;

/// Returns the retention of results, in milliseconds, in every fourth seed. The other seeds keep
/// results to the end, and their runs stay as they were before lookups existed.
pub(crate) fn short_retention_ms(seed: u64) -> Option<u64> {
    let dice = Dice::new(seed.rotate_left(48) ^ 7);
    let retention_ms = dice.pick(&[0, 150, 3_000]);
    seed.is_multiple_of(4).then_some(retention_ms)
}

/// Looks up a flow a few times that has come to rest and has no handle.
pub(crate) async fn look_up(world: &World, app: &App, flow: usize, id: Id) -> Result<(), Error> {
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
                // A flow with a handle is kept.
                let reported = life::outcome(&result).await?;
                result.at_rest().await?;
                if world.submitted[flow].borrow().reported.as_ref() != Some(&reported) {
                    world.report_fault(format!(
                        "flow {flow} is found to have ended as {reported:?}"
                    ));
                }
            }
            Err(Error::Id(IdError::Unknown { .. })) => {
                world.log(|| format!("flow {flow} is gone"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
