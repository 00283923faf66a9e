//! A disk that may fail at any call, and lose what was not synced.

use std::sync::{Arc, Mutex};

use chordal::persistence::{Batch, MemoryStore, Scan, Store};
use chordal::{Durability, StoreError};

/// A disk and what is on its way to it: all of it is read, only what was synced survives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(pub(crate) Arc<Mutex<DiskState>>, MemoryStore);

#[derive(Debug, Default)]
pub(crate) struct DiskState {
    /// All batches, in order.
    pub(crate) batches: Vec<Batch>,
    /// How many of them are synced.
    pub(crate) synced: usize,
    pub(crate) calls: usize,
    /// The call of `apply` or `sync` that fails, and with it all behind it, or none.
    pub(crate) fails_at: Option<usize>,
    pub(crate) fails_once: bool,
    /// Asked in the middle of each sync.
    pub(crate) during_sync: Option<During>,
}

#[derive(Clone)]
pub(crate) struct During(pub(crate) Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for During {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("During")
    }
}

impl Disk {
    pub(crate) fn failing_at(call: usize) -> Self {
        let disk = Self::default();
        disk.0.lock().unwrap().fails_at = Some(call);
        disk
    }

    /// One that holds these already.
    pub(crate) fn holding(batches: Vec<Batch>) -> Self {
        let disk = Self::default();
        for batch in &batches {
            disk.1.apply(batch.clone()).unwrap();
        }
        let mut state = disk.0.lock().unwrap();
        state.synced = batches.len();
        state.batches = batches;
        drop(state);
        disk
    }

    /// How many of them are synced.
    pub(crate) fn synced(&self) -> usize {
        self.0.lock().unwrap().synced
    }

    /// How many batches were written.
    pub(crate) fn batches(&self) -> usize {
        self.0.lock().unwrap().batches.len()
    }

    /// What a crash leaves that takes all batches behind the first `count` with it.
    pub(crate) fn crashed_after(&self, count: usize) -> MemoryStore {
        Self::holding(self.0.lock().unwrap().batches[..count].to_vec()).1
    }

    /// What a crash leaves at this moment, to go on with.
    pub(crate) fn crashed(&self) -> Self {
        let state = self.0.lock().unwrap();
        Self::holding(state.batches[..state.synced].to_vec())
    }

    fn call(state: &mut DiskState) -> Result<(), StoreError> {
        state.calls += 1;
        match state.fails_at {
            Some(at) if state.calls == at => Err(StoreError::Io {
                doing: "write".to_owned(),
                source: Arc::new(std::io::Error::other("no more")),
            }),
            Some(at) if state.calls > at && !state.fails_once => {
                Err(StoreError::Poisoned("no more".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Store for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.1.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.1.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap();
        Self::call(&mut state)?;
        state.batches.push(batch.clone());
        self.1.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        let during = self.0.lock().unwrap().during_sync.clone();
        if let Some(During(ask)) = during {
            ask();
        }
        let mut state = self.0.lock().unwrap();
        Self::call(&mut state)?;
        if durability != Durability::Buffered {
            state.synced = state.batches.len();
        }
        Ok(())
    }
}
