//! The starts under each limit: a limit holds over restarts.

use super::codec::{self, Kind};
use super::keys;
use crate::canvas::admission::rate_window::StoredStarts;
use crate::canvas::admission::start_limits::LimitName;
use crate::persistence::{Pair, StoreError};

/// Returns the record of the starts under a limit.
pub(crate) fn record(name: &LimitName, starts: &StoredStarts) -> Pair {
    (key(name), codec::encode(Kind::Starts, starts))
}

/// Returns the key of the record of a limit.
pub(crate) fn key(name: &LimitName) -> Vec<u8> {
    let (of, name) = match name {
        LimitName::Task(name) => (b't', name),
        LimitName::Named(name) => (b'n', name),
    };
    [keys::STARTS, &[of], name.as_bytes()].concat()
}

/// Decodes a record of the starts under a limit.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<(LimitName, StoredStarts), StoreError> {
    let starts = codec::decode(Kind::Starts, key, record)?;
    let name = key.strip_prefix(keys::STARTS).and_then(|rest| {
        let (of, name) = rest.split_first()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        match of {
            b't' => Some(LimitName::Task(name)),
            b'n' => Some(LimitName::Named(name)),
            _ => None,
        }
    });
    let name = name.ok_or_else(|| codec::corrupt(Kind::Starts, key, "it names no limit"))?;
    Ok((name, starts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found_by_its_key() {
        let starts = StoredStarts {
            period_ms: 60_000,
            counted: vec![(7, 1), (9, 200)],
            uncounted: 3,
        };
        for name in [
            LimitName::Task("mail.send".into()),
            LimitName::Named("mail.send".into()),
        ] {
            let (key, record) = record(&name, &starts);
            assert_eq!(decode(&key, &record).unwrap(), (name, starts.clone()));
        }
        let (_, record) = record(&LimitName::Named("x".into()), &starts);
        for key in [&b"m/starts/"[..], b"m/starts/x-name", b"m/starts/n\xff"] {
            assert!(decode(key, &record).is_err());
        }
    }
}
