//! Why a canvas is refused.

use std::fmt;

/// A refused canvas: the reason and the path of the faulty part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CanvasError {
    /// For example `chord.header[2].chain[1]`; empty for the submitted canvas itself.
    pub(crate) path: String,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Wrong(String),
    /// The arguments of this task are too large.
    TooLarge {
        task: String,
        excess: SizeExceeded,
    },
    /// The name of a queue is too long.
    QueueName(SizeExceeded),
}

/// A size above the limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeExceeded {
    pub(crate) bytes: u64,
    pub(crate) limit: u64,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(reason) => f.write_str(reason),
            Self::TooLarge { task, excess } => write!(f, "the arguments of `{task}` take {excess}"),
            Self::QueueName(excess) => write!(f, "the name of its queue takes {excess}"),
        }
    }
}

impl fmt::Display for SizeExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit } = self;
        write!(f, "{bytes} bytes, and the limit is {limit}")
    }
}

impl fmt::Display for CanvasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.reason.fmt(f)
    }
}

impl CanvasError {
    pub(crate) fn at_top(reason: &str) -> Self {
        Self {
            path: String::new(),
            reason: Reason::Wrong(reason.to_owned()),
        }
    }

    pub(crate) fn within(self, path: &str) -> Self {
        Self {
            path: format!(".{path}{}", self.path),
            ..self
        }
    }

    /// Completes the path at the outermost canvas.
    pub(crate) fn outermost(self) -> Self {
        Self {
            path: self.path.trim_start_matches('.').to_owned(),
            ..self
        }
    }
}
