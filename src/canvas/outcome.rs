//! The outcome of a task: its value or its failure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::depth::nested;
use super::id::{Id, Seq};
use super::payload::Payload;

/// The outcome of a task, chain, group or chord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Success(Value),
    Failure(Box<TaskFailure>),
    /// It expired or was revoked before it could start. Everything that needed its value fails with
    /// the same failure.
    Revoked(Box<TaskFailure>),
}

impl Outcome {
    /// Returns the failure, if there is no value.
    pub(crate) fn failure(&self) -> Option<&TaskFailure> {
        match self {
            Self::Success(_) => None,
            Self::Failure(failure) | Self::Revoked(failure) => Some(failure),
        }
    }

    /// Returns whether it was revoked rather than expired.
    pub(crate) fn is_by_revocation(&self) -> bool {
        matches!(self, Self::Revoked(failure) if failure.is_by_revocation())
    }
}

/// A value, or a reference to where it is stored in its workflow: a large value is written once and
/// passed on by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    /// The bytes themselves.
    Inline(Payload),
    /// Stored in pieces under node `seq`.
    Stored { seq: Seq, len: u64 },
    /// The list of the `size` members of group or chord `seq`, in member order.
    Gathered { seq: Seq, size: u64, of: ListOf },
    /// The arguments that a retry gave task `seq`, stored in pieces.
    Args { seq: Seq, len: u64 },
    /// `own`, followed in its list by the values that these tasks, a task and its replacements,
    /// added to their chord.
    Extended {
        #[serde(deserialize_with = "nested")]
        own: Box<Value>,
        seqs: Vec<Seq>,
    },
}

/// What the list of a group consists of. Stored in the place of a `bool` that told whether the group is
/// settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ListOf {
    /// The value of each member: all have succeeded.
    Values,
    /// The outcome of each member (a `Result`), failures included.
    Outcomes,
    /// The values of the members whose success was recorded before the verdict.
    Successes,
}

/// The failure of a task, as its caller sees it.
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
    /// The kind of failure.
    pub kind: FailureKind,
    /// The task that failed. For a failed chord header, the chord.
    pub task_id: Id,
    /// The registered name of the task that failed.
    pub name: String,
    /// The name of the error's type. For an error that the task returned: its type
    /// (`ParseIntError`) or the name that the task [gave](crate::TaskError::with_type). For an
    /// error that the engine found, Celery's name: `ChordError`, `MaxRetriesExceededError`,
    /// `SoftTimeLimitExceeded`, `TimeLimitExceeded`, `TaskRevokedError`, `WorkerLostError`,
    /// `TypeError`, `NotRegistered`; or `Panic`, `EngineError`, `PayloadTooLarge`.
    pub error_type: String,
    /// The task's own message, or a panic's text.
    pub message: String,
    /// The number of the attempt that failed, counted from 1.
    pub attempt: u32,
    /// For a failed chord header: the failure of the member with the lowest index.
    #[serde(default, deserialize_with = "nested")]
    pub cause: Option<Box<TaskFailure>>,
}

/// The kind of a [`TaskFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The task returned an error.
    Error,
    /// The task panicked.
    Panic,
    /// An attempt ran longer than its hard time limit.
    TimeLimit,
    /// An attempt ran longer than its soft time limit, and the task did not handle it.
    SoftTimeLimit,
    /// The task [asked](crate::TaskContext::retry) for another attempt, had none left, and gave no
    /// [cause](crate::Retry::cause).
    MaxRetriesExceeded,
    /// The task expired before it could start, or was [revoked](crate::AsyncResult::revoke), by a caller
    /// or because its group ended without it (Celery's `TaskRevokedError`); the message tells whether
    /// it expired.
    Revoked,
    /// A member of a chord's header failed, so the body never ran (Celery's `ChordError`).
    Chord,
    /// The arguments, an element or the upstream value do not fit the task's types, or its result
    /// could not be encoded.
    Type,
    /// chordal itself could not complete the task.
    Engine,
    /// The process crashed too often while the task was running, and the task was
    /// [discarded](crate::App::discard) (Celery's `WorkerLostError`).
    Quarantined,
    /// The task's result, or the arguments of a retry or canvas that it asked for, exceed the
    /// [limit](crate::AppBuilder::max_payload). It is not retried.
    PayloadTooLarge,
    /// No task was registered under its name, and the task was [discarded](crate::App::discard)
    /// (Celery's `NotRegistered`).
    NotRegistered,
    /// The [breaker](crate::TaskOptions::breaker) of the task was open, and the task is one that
    /// [fails](crate::OnOpen::Fail) then. It is not retried.
    BreakerOpen,
}

impl FailureKind {
    /// Returns Celery's name of the exception, or ours if Celery has none.
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
            Self::BreakerOpen => "BreakerOpen",
        }
    }
}

/// The message of a revoked task's failure, with Celery's wording (celery/worker/request.py,
/// `_announce_revoked`).
const REVOKED: &str = "revoked";

/// The maximum length of a failure's message, in bytes, so that every record can hold one.
const MAX_MESSAGE: usize = 1_024;
/// The maximum number of causes in a failure, for chords nested in chords.
const MAX_CAUSES: u32 = 3;

impl Value {
    /// Returns nil: the value of a chain without steps and without input.
    pub(crate) fn nil() -> Self {
        Self::Inline(Payload::from(vec![0xc0]))
    }
}

impl TaskFailure {
    /// Encodes the failure as an element of a settled list.
    pub(crate) fn encoded(&self) -> Payload {
        Payload::encode(self).expect("a failure can be encoded")
    }

    /// Returns the failure as the input of an errback.
    pub(crate) fn as_input(&self) -> Value {
        Value::Inline(self.encoded())
    }

    /// Creates the failure of an attempt. A message of more than a kilobyte is cut, which the
    /// message states.
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

    /// Creates the failure of a revoked task.
    pub(crate) fn revoked(task_id: Id, name: &str) -> Box<Self> {
        Self::new(FailureKind::Revoked, task_id, name, 1, REVOKED)
    }

    /// Returns whether the task was revoked rather than expired.
    pub(crate) fn is_by_revocation(&self) -> bool {
        self.kind == FailureKind::Revoked && self.message == REVOKED
    }

    /// Creates the failure of chord `chord` because `member` failed, with Celery's wording
    /// (celery/backends/redis.py, `_unpack_chord_result`).
    pub(crate) fn chord(chord: Id, member: Box<Self>) -> Box<Self> {
        let message = format!("Dependency {} raised {}", member.task_id, member.repr());
        let mut failure = Self::new(FailureKind::Chord, chord, "chord", 1, &message);
        failure.cause = Some(member);
        failure.keep_causes(MAX_CAUSES);
        failure
    }

    /// Formats the error as Python's `repr` formats an exception.
    fn repr(&self) -> String {
        let Self {
            error_type,
            message,
            ..
        } = self;
        if message.is_empty() && self.kind != FailureKind::Error {
            return format!("{error_type}()");
        }
        // Python prefers single quotes, and uses double quotes only if they need no escape.
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
