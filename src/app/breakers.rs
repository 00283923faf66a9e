//! Circuit breakers as callers see them.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::App;
use crate::canvas::breaker::BreakerStatus;
use crate::error::Result;
#[cfg(doc)]
use crate::{AppBuilder, Error};

impl App {
    /// Returns the circuit breakers that are [set](AppBuilder::breaker), by name, each with its
    /// state and the failures that count now, as far as they are durable. An eager app has none.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::{Breaker, BreakerState};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory()
    ///     .breaker("stripe", Breaker::failures(5))
    ///     .start()
    ///     .await?;
    /// let stripe = &app.breakers()?[0];
    /// assert_eq!((&*stripe.name, stripe.failures), ("stripe", 0));
    /// assert_eq!((stripe.state, stripe.open_until), (BreakerState::Closed, None));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the store cannot be read.
    pub fn breakers(&self) -> Result<Vec<BreakerStatus>> {
        let view = self.0.backend.view();
        let stored = view.reader()?.circuits()?;
        let mut stored: HashMap<_, _> = stored.into_iter().collect();
        let now = view.clock.time();
        let breakers = self.0.backend.breakers().into_iter();
        let breakers = breakers.map(|(name, breaker)| {
            let circuit = stored.remove(&name).unwrap_or_default();
            let (state, failures) = circuit.state(breaker, now.steady_ms);
            let until_ms = circuit.open_until_ms;
            let left_ms = until_ms.and_then(|until_ms| until_ms.checked_sub(now.steady_ms));
            let open_until = left_ms.filter(|left_ms| *left_ms > 0).map(|left_ms| {
                UNIX_EPOCH + Duration::from_millis(now.wall_ms.saturating_add(left_ms))
            });
            BreakerStatus {
                name,
                state,
                failures,
                open_until,
            }
        });
        Ok(breakers.collect())
    }
}
