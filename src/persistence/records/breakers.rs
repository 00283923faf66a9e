//! The circuits of breakers: a breaker holds over restarts.

use super::codec::{self, Kind};
use super::keys;
use super::reader::Reader;
use crate::canvas::admission::start_limits::circuit::StoredCircuit;
use crate::persistence::StoreError;

/// Returns the record of a circuit.
pub(crate) fn record(circuit: &StoredCircuit) -> Vec<u8> {
    codec::encode(Kind::Circuit, circuit)
}

/// Returns the key of the record of a breaker.
pub(crate) fn key(name: &str) -> Vec<u8> {
    [keys::BREAKERS, name.as_bytes()].concat()
}

/// Decodes a record; returns the name of its breaker, too.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<(String, StoredCircuit), StoreError> {
    let circuit = codec::decode(Kind::Circuit, key, record)?;
    let name = key.strip_prefix(keys::BREAKERS);
    let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok());
    let name = name.ok_or_else(|| codec::corrupt(Kind::Circuit, key, "it names no breaker"))?;
    Ok((name, circuit))
}

impl Reader {
    /// Returns the circuits that are stored; a breaker without one is closed and counts no failure.
    pub(crate) fn circuits(&self) -> Result<Vec<(String, StoredCircuit)>, StoreError> {
        let (from, to) = keys::all_breakers();
        let circuits = self.store().scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            decode(&key, &record)
        });
        circuits.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_is_found_by_the_key_of_its_record() {
        let open = StoredCircuit {
            failures: Vec::new(),
            open_until_ms: Some(7),
        };
        // (No record holds more failures.)
        let closed = StoredCircuit {
            failures: vec![u64::MAX; 500],
            open_until_ms: None,
        };
        for circuit in [open, closed] {
            for name in ["stripe", "", "ä/b"] {
                let record = record(&circuit);
                assert!(record.len() < codec::MAX_RECORD);
                let found = decode(&key(name), &record).unwrap();
                assert_eq!(found, (name.to_owned(), circuit.clone()));
            }
        }
        let record = record(&StoredCircuit::default());
        for key in [&b"m/breakers"[..], b"m/breakers/\xff"] {
            assert!(decode(key, &record).is_err());
        }
    }
}
