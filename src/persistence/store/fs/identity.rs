//! The identity of a store, which tells its files from those of another store.
//!
//! A store draws a random id before its first write. Each file that says something about the other
//! files carries it: the segments of a log, the watermark, and the engine's own record.

use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use crate::persistence::store::StoreError;

/// The id of a store.
///
/// Two copies of a directory have the same id: copying writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId(u128);

impl StoreId {
    pub(crate) const LENGTH: usize = 16;

    /// Draws an id. Not from the app's clock: a store is opened without one, and the stores of two
    /// tests whose clocks draw the same numbers must still differ. No decision depends on its
    /// value.
    pub(crate) fn draw() -> Self {
        Self(rand::random())
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id that a store's engine has recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: StoreId,
    /// The first segment (by generation) or commit of the store that carries the id. It is above 1
    /// in a store that an earlier version created.
    pub(crate) since: u64,
}

impl Identity {
    const LENGTH: usize = StoreId::LENGTH + 8;

    /// Draws an id for the segments or commits from `since` on.
    pub(crate) fn draw(since: u64) -> Self {
        let id = StoreId::draw();
        Self { id, since }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..StoreId::LENGTH].copy_from_slice(&self.id.to_bytes());
        bytes[StoreId::LENGTH..].copy_from_slice(&self.since.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, since) = bytes.split_at_checked(StoreId::LENGTH)?;
        Some(Self {
            id: StoreId::from_bytes(id.try_into().ok()?),
            since: u64::from_le_bytes(since.try_into().ok()?),
        })
    }

    /// Fails unless the file with this number carries the id that this store gives to that number.
    pub(crate) fn check(
        &self,
        path: &Path,
        number: u64,
        found: Option<StoreId>,
    ) -> Result<(), StoreError> {
        let expected = (number >= self.since).then_some(self.id);
        match found == expected {
            true => Ok(()),
            false => Err(wrong_store(path, found, Some(self.id))),
        }
    }
}

pub(crate) fn wrong_store(
    path: &Path,
    found: Option<StoreId>,
    expected: Option<StoreId>,
) -> StoreError {
    let named = |id: Option<StoreId>| id.map_or("none".to_owned(), |id| id.to_string());
    StoreError::WrongStore {
        path: path.to_owned(),
        found: named(found),
        expected: named(expected),
    }
}

/// Returns a random number that identifies this process. A process id does not: in each of two
/// containers it may be 1.
pub(crate) fn process_number() -> u64 {
    static DRAWN: LazyLock<u64> = LazyLock::new(rand::random);
    *DRAWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_identity_is_decoded() {
        let identity = Identity::draw(7);
        assert_eq!(Identity::from_bytes(&identity.to_bytes()), Some(identity));
        for length in 0..Identity::LENGTH {
            assert_eq!(Identity::from_bytes(&identity.to_bytes()[..length]), None);
        }
        assert_ne!(Identity::draw(7), identity);
    }

    #[test]
    fn a_file_without_an_id_belongs_to_the_store_only_if_it_is_older_than_the_id() {
        let (ours, other) = (Identity::draw(7), StoreId::draw());
        let check = |number, found| ours.check(Path::new("/x/wal"), number, found).is_ok();
        assert!(check(6, None) && !check(6, Some(ours.id)) && !check(6, Some(other)));
        assert!(!check(7, None) && check(7, Some(ours.id)) && !check(7, Some(other)));
    }
}
