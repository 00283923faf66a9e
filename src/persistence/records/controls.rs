//! What was set for queues and tasks while an app ran.

use super::codec::{self, Kind};
use super::keys;
use super::reader::Reader;
use crate::canvas::admission::control::{ControlTarget, Settings};
use crate::persistence::StoreError;

/// Returns the record of the settings of a queue or a task.
pub(crate) fn record(settings: Settings) -> Vec<u8> {
    codec::encode(Kind::Control, &settings)
}

/// Returns the key of the record of a queue or a task.
pub(crate) fn key(target: &ControlTarget) -> Vec<u8> {
    let (of, name) = match target {
        ControlTarget::Queue(name) => (b'q', name),
        ControlTarget::Task(name) => (b't', name),
    };
    [keys::CONTROLS, &[of], name.as_bytes()].concat()
}

/// Decodes a record and its key.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<(ControlTarget, Settings), StoreError> {
    let settings = codec::decode(Kind::Control, key, record)?;
    let target = key.strip_prefix(keys::CONTROLS).and_then(|rest| {
        let (of, name) = rest.split_first()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        match of {
            b'q' => Some(ControlTarget::Queue(name)),
            b't' => Some(ControlTarget::Task(name)),
            _ => None,
        }
    });
    let target = target
        .ok_or_else(|| codec::corrupt(Kind::Control, key, "it names no queue and no task"))?;
    Ok((target, settings))
}

impl Reader {
    /// Returns what was set for queues and tasks.
    pub(crate) fn controls(&self) -> Result<Vec<(ControlTarget, Settings)>, StoreError> {
        let (from, to) = keys::all_controls();
        let controls = self.store().scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            decode(&key, &record)
        });
        controls.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_or_task_is_found_by_the_key_of_its_record() {
        let settings = Settings {
            is_paused: true,
            concurrency: Some(8),
        };
        for target in [
            ControlTarget::Queue("mail".into()),
            ControlTarget::Task("mail".into()),
        ] {
            let found = decode(&key(&target), &record(settings)).unwrap();
            assert_eq!(found, (target, settings));
        }
        for key in [&b"m/controls/"[..], b"m/controls/x", b"m/controls/q\xff"] {
            assert!(decode(key, &record(settings)).is_err());
        }
    }
}
