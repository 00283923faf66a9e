//! How a task ended: its value or its failure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::depth::nested;
use super::id::{Id, Seq};
use super::payload::Payload;

/// How a task, chain, group or chord ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Success(Value),
    Failure(Box<TaskFailure>),
    /// It has expired, or was revoked, before it could start. Whatever needed its value fails
    /// with the same failure.
    Revoked(Box<TaskFailure>),
}

impl Outcome {
    /// Why there is no value.
    pub(crate) fn failure(&self) -> Option<&TaskFailure> {
        match self {
            Self::Success(_) => None,
            Self::Failure(failure) | Self::Revoked(failure) => Some(failure),
        }
    }

    /// Says whether it was revoked, and did not expire.
    pub(crate) fn is_by_revocation(&self) -> bool {
        matches!(self, Self::Revoked(failure) if failure.is_by_revocation())
    }
}

/// A value, or where in its workflow it is kept: what is large is written once and passed on by
/// reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    /// The bytes themselves.
    Inline(Payload),
    /// Kept in pieces under node `seq`.
    Stored { seq: Seq, len: u64 },
    /// The list of what the members of group or chord `seq` gave, in member order.
    Gathered {
        seq: Seq,
        size: u64,
        /// Each member's outcome (a `Result`), failures included.
        settled: bool,
    },
    /// The arguments that a retry gave task `seq`, kept in pieces.
    Args { seq: Seq, len: u64 },
    /// `own`, and behind it, in the list it becomes a part of, what these tasks have added to their
    /// chord: a task, and what took its place.
    Extended {
        #[serde(deserialize_with = "nested")]
        own: Box<Value>,
        seqs: Vec<Seq>,
    },
}

/// Why a task failed, as its caller sees it.
///
/// ```no_run
/// # async fn f(app: chordal::App, id: chordal::Id) -> chordal::Result<()> {
/// match app.async_result::<i64>(id).await?.get().await {
///     Ok(sum) => println!("{sum}"),
///     Err(chordal::Error::Failed(failure)) => eprintln!("{} failed: {}", failure.name, failure.message),
///     Err(other) => return Err(other),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskFailure {
    /// What kind of failure it was.
    pub kind: FailureKind,
    /// The task that failed. For a failed chord header: the chord.
    pub task_id: Id,
    /// Registered name of the task that failed.
    pub name: String,
    /// The name of the error's type: of what the task returned (`ParseIntError`, or what it
    /// [said](crate::TaskError::with_type)), or as Celery calls what the engine found:
    /// `ChordError`, `MaxRetriesExceededError`, `SoftTimeLimitExceeded`, `TimeLimitExceeded`,
    /// `TaskRevokedError`, `WorkerLostError`, `TypeError`, `NotRegistered`; and `Panic`, `EngineError`,
    /// `PayloadTooLarge`.
    pub error_type: String,
    /// The task's own message; a panic's text too.
    pub message: String,
    /// Which attempt failed, counted from 1.
    pub attempt: u32,
    /// For a failed chord header: the failure of the member with the lowest index.
    #[serde(default, deserialize_with = "nested")]
    pub cause: Option<Box<TaskFailure>>,
}

/// What kind of failure a [`TaskFailure`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The task returned an error.
    Error,
    /// The task panicked.
    Panic,
    /// An attempt ran longer than its hard time limit.
    TimeLimit,
    /// An attempt ran longer than its soft time limit, and the task did not listen for it.
    SoftTimeLimit,
    /// The task [asked](crate::TaskContext::retry) for another attempt and had none left; it gave
    /// no [cause](crate::Retry::cause).
    MaxRetriesExceeded,
    /// It expired before it could start, or was [revoked](crate::AsyncResult::revoke) (Celery's
    /// `TaskRevokedError`): the message says which.
    Revoked,
    /// A member of a chord's header failed, so the body never ran (Celery's `ChordError`).
    Chord,
    /// The arguments, an element or the upstream value are not what the task takes, or its result
    /// could not be encoded.
    Type,
    /// chordal itself could not carry the task through.
    Engine,
    /// The process ended too often while it was running, and it was
    /// [discarded](crate::App::discard) (Celery's `WorkerLostError`).
    Quarantined,
    /// Its result, or the arguments of the retry or of the canvas that it asked for, are larger than
    /// is [taken](crate::AppBuilder::max_payload). It is not tried again.
    PayloadTooLarge,
    /// No task was registered under its name, and it was [discarded](crate::App::discard) (Celery's
    /// `NotRegistered`).
    NotRegistered,
}

impl FailureKind {
    /// What Celery calls the exception, where it has one.
    pub(crate) fn error_type(self) -> &'static str {
        match self {
            Self::Error => "TaskError",
            Self::Panic => "Panic",
            Self::TimeLimit => "TimeLimitExceeded",
            Self::SoftTimeLimit => "SoftTimeLimitExceeded",
            Self::MaxRetriesExceeded => "MaxRetriesExceededError",
            Self::Revoked => "TaskRevokedError",
            Self::Chord => "ChordError",
            Self::Type => "TypeError",
            Self::Engine => "EngineError",
            Self::Quarantined => "WorkerLostError",
            Self::PayloadTooLarge => "PayloadTooLarge",
            Self::NotRegistered => "NotRegistered",
        }
    }
}

/// What the failure of a revoked task says, in Celery's words (celery/worker/request.py,
/// `_announce_revoked`).
const REVOKED: &str = "revoked";

/// The longest message of a failure, in bytes, so that every record holds one.
const MAX_MESSAGE: usize = 1_024;
/// How many causes a failure carries: chords in chords in chords.
const MAX_CAUSES: u32 = 3;

impl Value {
    /// Nothing: the value of a chain without steps and without input.
    pub(crate) fn nil() -> Self {
        Self::Inline(Payload::from(vec![0xc0]))
    }
}

impl TaskFailure {
    /// As an element of a settled list.
    pub(crate) fn encoded(&self) -> Payload {
        Payload::encode(self).expect("a failure can be encoded")
    }

    /// As the input of an errback.
    pub(crate) fn as_input(&self) -> Value {
        Value::Inline(self.encoded())
    }

    /// The failure of an attempt. A message of more than a kilobyte is cut, and says so.
    pub(crate) fn new(
        kind: FailureKind,
        task_id: Id,
        name: &str,
        attempt: u32,
        message: &str,
    ) -> Box<Self> {
        Box::new(Self {
            kind,
            task_id,
            name: name.to_owned(),
            error_type: kind.error_type().to_owned(),
            message: shorten(message),
            attempt,
            cause: None,
        })
    }

    /// As [`new`](Self::new), of what was revoked.
    pub(crate) fn revoked(task_id: Id, name: &str) -> Box<Self> {
        Self::new(FailureKind::Revoked, task_id, name, 1, REVOKED)
    }

    /// Says whether it was revoked, and did not expire.
    pub(crate) fn is_by_revocation(&self) -> bool {
        self.kind == FailureKind::Revoked && self.message == REVOKED
    }

    /// The failure of chord `chord` because `member` failed, in Celery's words
    /// (celery/backends/redis.py, `_unpack_chord_result`).
    pub(crate) fn chord(chord: Id, member: Box<Self>) -> Box<Self> {
        let message = format!("Dependency {} raised {}", member.task_id, member.repr());
        let mut failure = Self::new(FailureKind::Chord, chord, "chord", 1, &message);
        failure.cause = Some(member);
        failure.keep_causes(MAX_CAUSES);
        failure
    }

    /// The error as Python's `repr` writes an exception.
    fn repr(&self) -> String {
        let Self {
            error_type,
            message,
            ..
        } = self;
        if message.is_empty() && self.kind != FailureKind::Error {
            return format!("{error_type}()");
        }
        // Python prefers single quotes, and takes double ones if only these need no escape.
        let quote = if message.contains('\'') && !message.contains('"') {
            '"'
        } else {
            '\''
        };
        let mut text = format!("{error_type}({quote}");
        for c in message.chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c == quote || c == '\\' => text.extend(['\\', c]),
                c @ ('\0'..' ' | '\x7f'..='\u{a0}' | '\u{ad}') => {
                    text.push_str(&format!("\\x{:02x}", c as u32));
                }
                c => text.push(c),
            }
        }
        text.extend([quote, ')']);
        text
    }

    fn keep_causes(&mut self, count: u32) {
        match &mut self.cause {
            Some(cause) if count > 0 => cause.keep_causes(count - 1),
            cause => *cause = None,
        }
    }
}

pub(crate) fn shorten(message: &str) -> String {
    if message.len() <= MAX_MESSAGE {
        return message.to_owned();
    }
    let kept = &message[..message.floor_char_boundary(MAX_MESSAGE)];
    format!("{kept}… ({} bytes in all)", message.len())
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            task_id,
            attempt,
            message,
            ..
        } = self;
        match self.kind {
            FailureKind::Chord => write!(f, "chord {task_id}: {message}"),
            FailureKind::Revoked => write!(f, "task {name} ({task_id}) was revoked: {message}"),
            FailureKind::SoftTimeLimit => write!(
                f,
                "task {name} ({task_id}) ran over its soft time limit in attempt {attempt}"
            ),
            FailureKind::Panic => {
                write!(
                    f,
                    "task {name} ({task_id}) panicked in attempt {attempt}: {message}"
                )
            }
            _ => write!(
                f,
                "task {name} ({task_id}) failed in attempt {attempt}: {message}"
            ),
        }
    }
}

impl std::error::Error for TaskFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: FailureKind, error_type: &str, message: &str) -> Box<TaskFailure> {
        let id = Id::from(uuid::Uuid::nil());
        let mut failure = TaskFailure::new(kind, id, "task", 1, message);
        failure.error_type = error_type.to_owned();
        failure
    }

    #[test]
    fn errors_are_quoted_as_python_does() {
        for (message, repr) in [
            ("gear", "ValueError('gear')"),
            ("", "ValueError('')"),
            ("it's", "ValueError(\"it's\")"),
            ("a \"b\" it's", "ValueError('a \"b\" it\\'s')"),
            ("back\\slash\n", "ValueError('back\\\\slash\\n')"),
        ] {
            assert_eq!(
                failed(FailureKind::Error, "ValueError", message).repr(),
                repr
            );
        }
        let soft = failed(FailureKind::SoftTimeLimit, "SoftTimeLimitExceeded", "");
        assert_eq!(soft.repr(), "SoftTimeLimitExceeded()");
    }

    #[test]
    fn chords_in_chords_quote_each_other() {
        let id = Id::from(uuid::Uuid::nil());
        let inner = TaskFailure::chord(id, failed(FailureKind::Error, "ValueError", "x"));
        let outer = TaskFailure::chord(id, inner);
        assert_eq!(
            outer.message,
            format!(
                "Dependency {id} raised ChordError(\"Dependency {id} raised ValueError('x')\")"
            )
        );
    }
}
