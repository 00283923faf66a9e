//! A catalogue for tests that have no app.

use crate::canvas::freeze::{Catalogue, SizeExceeded};
use crate::canvas::parameter::Parameter;

/// A catalogue that knows every task and accepts all arguments.
pub(crate) struct Everything;

impl Catalogue for Everything {
    fn parameters(&self, _: &str) -> Option<&'static [Parameter]> {
        Some(const { &[Parameter::rest::<serde_json::Value>("args")] })
    }

    fn admit(&self, _: &str, _: usize) -> Result<(), SizeExceeded> {
        Ok(())
    }
}
