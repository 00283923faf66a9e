//! What freezing asks about the registered tasks.

use super::error::SizeExceeded;
use crate::canvas::options::TimeLimits;
use crate::canvas::parameter::Parameter;

/// The registered tasks and their parameters.
pub(crate) trait Catalogue {
    /// Returns the parameters of task `name`, or `None` if it is not registered.
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]>;

    /// Checks that task `name` may be called with this many bytes.
    fn admit(&self, name: &str, bytes: usize) -> Result<(), SizeExceeded>;

    /// Notes that a canvas has [options](crate::canvas::stored_options) of which stores have to know.
    fn note_extended_options(&self) {}

    /// Returns the limits with which task `name` is registered.
    fn limits(&self, _name: &str) -> TimeLimits {
        TimeLimits::default()
    }
}
