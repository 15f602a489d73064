//! One error for the room: a kind that callers act on, a context that people read, the source.

use std::fmt;
use std::io;

/// What went wrong, as far as a caller may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such record.
    NotFound,
    /// It is there already, or something that must be unique is taken.
    Conflict,
    /// The record itself is wrong.
    Invalid,
    /// A table has as many records as it may.
    Full,
    /// Another process has the file open.
    Busy,
    /// Written by a newer version of Reveille.
    NewerVersion,
    /// The bytes on the medium are not a catalog, or a record in it cannot be read.
    Corrupt,
    /// The file system has no room for what was to be written.
    NoSpace,
    /// The operating system refused or failed an operation.
    Io,
}

impl ErrorKind {
    /// What an error of the system means here.
    pub(super) fn of(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io,
        }
    }
}

/// An error of the catalog: kind, what it concerns, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of the catalog.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a sentence that names the object, the cause and the next step.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// The same with the error that caused it, whose text is put behind the context.
    pub fn caused(
        kind: ErrorKind,
        context: impl fmt::Display,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            kind,
            context: format!("{context}: {source}"),
            source: Some(Box::new(source)),
        }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
