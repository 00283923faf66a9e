//! What freezing asks about the registered tasks.

use super::error::SizeExceeded;
use crate::canvas::options::TimeLimits;
use crate::canvas::parameter::Parameter;

/// An addition to the form in which canvases are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatAddition {
    /// [Options](crate::canvas::stored_options) that the first stores did not have.
    SignatureOptions,
    /// [Policies](crate::canvas::group_policy::GroupPolicy) that the first stores did not have.
    GroupPolicies,
}

impl FormatAddition {
    pub(crate) const ALL: [Self; 2] = [Self::SignatureOptions, Self::GroupPolicies];
}

/// The registered tasks and their parameters.
pub(crate) trait Catalogue {
    /// Returns the parameters of task `name`, or `None` if it is not registered.
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]>;

    /// Checks that task `name` may be called with this many bytes.
    fn admit(&self, name: &str, bytes: usize) -> Result<(), SizeExceeded>;

    /// Notes that a canvas needs an addition to the format, of which stores have to know.
    fn note_addition(&self, _addition: FormatAddition) {}

    /// Returns the limits with which task `name` is registered.
    fn limits(&self, _name: &str) -> TimeLimits {
        TimeLimits::default()
    }
}
