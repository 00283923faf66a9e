//! The starts under each limit: a limit holds over restarts.

use super::codec::{self, Kind};
use super::keys;
use crate::canvas::admission::rate_window::StoredStarts;
use crate::canvas::admission::start_limits::LimitName;
use crate::persistence::StoreError;

/// The starts that are stored of a limit, for one key if it is divided by keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredLimit {
    pub(crate) name: LimitName,
    pub(crate) key: Option<String>,
    pub(crate) starts: StoredStarts,
}

/// Returns the record of the starts under a limit.
pub(crate) fn record(starts: &StoredStarts) -> Vec<u8> {
    codec::encode(Kind::Starts, starts)
}

/// Returns the key of the record of a limit.
pub(crate) fn key(name: &LimitName, key: Option<&str>) -> Vec<u8> {
    let (of, of_keys, name) = match name {
        LimitName::Task(name) => (b't', b'T', &**name),
        LimitName::Named(name) => (b'n', b'N', &**name),
        LimitName::Queue(name) => (b'q', b'Q', &**name),
        LimitName::Signatures => (b's', b'S', ""),
    };
    match key {
        None => [keys::STARTS, &[of], name.as_bytes()].concat(),
        Some(key) => {
            let length = u8::try_from(name.len()).expect("a name has at most 255 bytes");
            let of = [of_keys, length];
            [keys::STARTS, &of, name.as_bytes(), key.as_bytes()].concat()
        }
    }
}

/// Decodes a record of the starts under a limit.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<StoredLimit, StoreError> {
    let starts = codec::decode(Kind::Starts, key, record)?;
    let limit = key.strip_prefix(keys::STARTS).and_then(|rest| {
        let (of, rest) = rest.split_first()?;
        let (name, key) = match of {
            b't' | b'n' | b'q' | b's' => (rest, None),
            _ => {
                let (length, rest) = rest.split_first()?;
                let (name, key) = rest.split_at_checked(usize::from(*length))?;
                (name, Some(String::from_utf8(key.to_vec()).ok()?))
            }
        };
        let name = String::from_utf8(name.to_vec()).ok()?;
        let name = match of {
            b't' | b'T' => LimitName::Task(name),
            b'n' | b'N' => LimitName::Named(name),
            b'q' | b'Q' => LimitName::Queue(name),
            b's' | b'S' if name.is_empty() => LimitName::Signatures,
            _ => return None,
        };
        Some((name, key))
    });
    let limit = limit.ok_or_else(|| codec::corrupt(Kind::Starts, key, "it names no limit"));
    limit.map(|(name, key)| StoredLimit { name, key, starts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_and_its_key_are_found_by_the_key_of_the_record() {
        let starts = StoredStarts {
            period_ms: 60_000,
            counted: vec![(7, 1), (9, 200)],
            uncounted: 3,
        };
        let record = record(&starts);
        for name in ["mail.send", "", "t"] {
            for limit_key in [None, Some(""), Some("acme"), Some("ä\0b")] {
                for name in [
                    LimitName::Task(name.into()),
                    LimitName::Named(name.into()),
                    LimitName::Signatures,
                ] {
                    let stored = StoredLimit {
                        name: name.clone(),
                        key: limit_key.map(str::to_owned),
                        starts: starts.clone(),
                    };
                    let key = key(&name, limit_key);
                    assert_eq!(decode(&key, &record).unwrap(), stored);
                }
            }
        }
        for key in [
            &b"m/starts/"[..],
            b"m/starts/x-name",
            b"m/starts/n\xff",
            b"m/starts/T",
            b"m/starts/T\x04mai",
            b"m/starts/N\x01a\xff",
        ] {
            assert!(decode(key, &record).is_err());
        }
    }
}
