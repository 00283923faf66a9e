//! The policy of a group: when it ends, and with which values.

use serde::{Deserialize, Serialize};

use super::outcome::ListOf;

/// When a group, or the header of a chord or fold, ends.
///
/// Stored in the place of a `bool` that told whether the group is settled, so the first two variants
/// are encoded as `false` and `true` were. The others are an addition to the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GroupPolicy {
    /// With its last member. If a member has failed, the group fails.
    #[default]
    All,
    /// With its last member. Failures are elements of its list.
    Settled,
    /// With its last member, or with the first failure; the other members are then revoked.
    FailFast,
    /// With the first so many values; the other members are then revoked. It fails as soon as fewer
    /// can succeed.
    First(u64),
    /// With its last member. It fails if fewer have succeeded.
    AtLeast(u64),
}

impl GroupPolicy {
    /// Returns whether failures are elements of the list.
    pub(crate) fn is_settled(self) -> bool {
        self == Self::Settled
    }

    /// Returns whether only a build that knows the addition of policies can read it.
    pub(crate) fn is_addition(self) -> bool {
        match self {
            Self::All | Self::Settled => false,
            Self::FailFast | Self::First(_) | Self::AtLeast(_) => true,
        }
    }

    /// Returns what the list of the group consists of.
    pub(crate) fn list_of(self) -> ListOf {
        match self {
            Self::All | Self::FailFast => ListOf::Values,
            Self::Settled => ListOf::Outcomes,
            Self::First(_) | Self::AtLeast(_) => ListOf::Successes,
        }
    }

    /// Returns the call that sets it; none for the default.
    pub(crate) fn call(self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Settled => Some("settled()".to_owned()),
            Self::FailFast => Some("fail_fast()".to_owned()),
            Self::First(k) => Some(format!("first({k})")),
            Self::AtLeast(k) => Some(format!("at_least({k})")),
        }
    }

    /// Returns this policy in place of `earlier`, or why the two do not go together.
    pub(crate) fn over(self, earlier: Self) -> Result<Self, String> {
        if let Self::First(0) | Self::AtLeast(0) = self {
            let call = self.call().unwrap_or_default();
            return Err(format!("{call} asks for no value; the least is 1"));
        }
        let (Some(call), Some(other)) = (self.call(), earlier.call()) else {
            return Ok(self);
        };
        if self == earlier {
            return Ok(self);
        }
        let why = match (self, earlier) {
            (Self::Settled, Self::FailFast) | (Self::FailFast, Self::Settled) => {
                "a settled group does not fail"
            }
            (Self::Settled, _) | (_, Self::Settled) => {
                "a settled group has all outcomes, failures too, and does not fail"
            }
            (Self::FailFast, _) | (_, Self::FailFast) => {
                "the one ends with the first failure, the other bears failures"
            }
            _ => "a group ends in one way",
        };
        Err(format!("{call} and {other} exclude each other: {why}"))
    }

    /// Returns an error if a group of `size` members can never have as many values as it needs.
    pub(crate) fn check_size(self, size: u64) -> Result<(), String> {
        match self {
            Self::First(k) | Self::AtLeast(k) if k > size => {
                let call = self.call().unwrap_or_default();
                let members = if size == 1 { "member" } else { "members" };
                Err(format!("{call} on a group with {size} {members}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_policies_exclude_each_other() {
        use GroupPolicy::{All, AtLeast, FailFast, First, Settled};
        let all = [Settled, FailFast, First(2), First(3), AtLeast(2)];
        for policy in all {
            assert_eq!(policy.over(All), Ok(policy));
            assert_eq!(policy.over(policy), Ok(policy));
            for other in all.into_iter().filter(|other| *other != policy) {
                let error = policy.over(other).unwrap_err();
                assert!(error.contains(&policy.call().unwrap()), "{error}");
                assert!(error.contains(&other.call().unwrap()), "{error}");
            }
        }
        for none in [First(0), AtLeast(0)] {
            let error = none.over(All).unwrap_err();
            assert!(
                error.ends_with("asks for no value; the least is 1"),
                "{error}"
            );
        }
        assert_eq!(First(3).check_size(3), Ok(()));
        let error = AtLeast(2).check_size(1).unwrap_err();
        assert_eq!(error, "at_least(2) on a group with 1 member");
    }
}
