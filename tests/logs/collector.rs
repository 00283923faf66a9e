//! Takes down all that is logged, at every level, by whomever: with `tracing`, and, as sled does, with
//! `log`. Behind each event stands the span that it was logged in.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The spans, by number less 1.
static SPANS: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// The spans that this thread is in.
    static ENTERED: RefCell<Vec<span::Id>> = const { RefCell::new(Vec::new()) };
}

/// From now on, in this process.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Collector).unwrap();
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

struct Collector;

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
        let metadata = span.metadata();
        let mut line = Line(format!("{} {}", metadata.target(), metadata.name()));
        span.record(&mut line);
        take(line.0.clone());
        let mut spans = SPANS.lock().unwrap();
        spans.push(line.0);
        span::Id::from_u64(spans.len() as u64)
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
        if let Some(span) = ENTERED.with_borrow(|entered| entered.last().cloned()) {
            let spans = SPANS.lock().unwrap();
            write!(line.0, " @ {}", spans[span.into_u64() as usize - 1]).unwrap();
        }
        take(line.0);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, span: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.clone()));
    }

    fn exit(&self, span: &span::Id) {
        let last = ENTERED.with_borrow_mut(Vec::pop);
        assert_eq!(last.as_ref(), Some(span), "spans are left in order");
    }
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
