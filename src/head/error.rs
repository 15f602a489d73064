//! One error for the room: a kind for the wire and the exit code, a sentence for people.

use crate::catalog;
use crate::names::NameError;
use crate::store;

/// Why it could not be done: a kind for the wire and the exit code, a sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HeadError {
    /// What may be done about it.
    pub kind: HeadErrorKind,
    /// Object, cause, next step.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadErrorKind {
    /// No such object.
    NotFound,
    /// It exists already, or is in use.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// May heal by waiting (store busy, starting, out of space).
    Unavailable,
    /// The disk that this boot of the node had is gone (the head was restarted from power-off, or the layer
    /// was reset); waiting does not help, a new boot of the node does.
    Gone,
    /// The state directory was written by a newer version, or is held by another process.
    Refused,
    /// Everything else; the log has more.
    Internal,
}

/// Result of the room.
pub(super) type Result<T> = std::result::Result<T, HeadError>;

impl HeadError {
    /// An error of `kind` with its sentence.
    pub fn new(kind: HeadErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(HeadErrorKind::NotFound, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(HeadErrorKind::Conflict, message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(HeadErrorKind::Invalid, message)
    }

    /// Puts what was being attempted in front.
    #[must_use]
    pub fn within(mut self, outer: impl std::fmt::Display) -> Self {
        self.message = format!("{outer}: {}", self.message);
        self
    }
}

impl From<catalog::Error> for HeadError {
    fn from(error: catalog::Error) -> Self {
        use catalog::ErrorKind as From;
        let kind = match error.kind() {
            From::NotFound => HeadErrorKind::NotFound,
            From::Conflict => HeadErrorKind::Conflict,
            From::Invalid => HeadErrorKind::Invalid,
            From::Full | From::NoSpace => HeadErrorKind::Unavailable,
            From::Busy | From::NewerVersion => HeadErrorKind::Refused,
            From::Corrupt | From::Io => HeadErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<store::Error> for HeadError {
    fn from(error: store::Error) -> Self {
        use store::ErrorKind as From;
        let kind = match error.kind() {
            From::NotFound => HeadErrorKind::NotFound,
            From::InvalidFormat | From::Unsupported | From::OutOfBounds => HeadErrorKind::Invalid,
            From::Busy | From::NoSpace | From::Fenced | From::Cancelled => {
                HeadErrorKind::Unavailable
            }
            From::NewerVersion => HeadErrorKind::Refused,
            From::Io | From::Corrupt | From::Poisoned => HeadErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<NameError> for HeadError {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}
