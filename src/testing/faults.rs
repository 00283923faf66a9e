//! Kills an actor of a chosen kind, for the tests of supervision.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The fault of this process, if a test has armed one.
static FAULT: Mutex<Option<Fault>> = Mutex::new(None);
static DIED: AtomicBool = AtomicBool::new(false);

/// The kind of actor to kill, the number of events that it survives first, and how often it dies.
struct Fault {
    kind: &'static str,
    survives: u32,
    times: u32,
}

/// Kills an actor of this kind at its event after the next `survives`, and so on `times` times.
pub(crate) fn arm(kind: &'static str, survives: u32, times: u32) {
    DIED.store(false, Ordering::SeqCst);
    *FAULT.lock() = Some(Fault {
        kind,
        survives,
        times,
    });
}

pub(crate) fn disarm() {
    *FAULT.lock() = None;
}

/// Returns whether an actor has died since the last [`arm`].
pub(crate) fn has_died() -> bool {
    DIED.load(Ordering::SeqCst)
}

/// Panics in an actor of this kind if a test has armed that.
pub(super) fn fault(kind: &'static str) {
    let mut armed = FAULT.lock();
    if let Some(fault) = armed.as_mut().filter(|fault| fault.kind == kind) {
        if fault.survives > 0 {
            fault.survives -= 1;
        } else if fault.times > 0 {
            fault.times -= 1;
            DIED.store(true, Ordering::SeqCst);
            drop(armed);
            panic!("this {kind} actor dies because a test asked for it");
        }
    }
}
