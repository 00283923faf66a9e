//! Takes down all that is logged, at every level, by whomever: with `tracing`, and, as sled does, with
//! `log`.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on, in this process.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Collector::default()).unwrap();
        log::set_logger(&FromLog).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// What has been logged so far.
pub(crate) fn lines() -> Vec<String> {
    LINES.lock().unwrap().clone()
}

fn take(line: String) {
    LINES.lock().unwrap().push(line);
}

#[derive(Default)]
struct Collector(AtomicU64);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(span.metadata().target().to_owned());
        span.record(&mut line);
        take(line.0);
        span::Id::from_u64(1 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line("span".to_owned());
        values.record(&mut line);
        take(line.0);
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
        event.record(&mut line);
        take(line.0);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct FromLog;

impl log::Log for FromLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (level, target) = (record.level(), record.target());
        take(format!("{level} {target} {}", record.args()));
    }

    fn flush(&self) {}
}
