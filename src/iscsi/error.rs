//! One error for the room: a kind that callers act on, a sentence for people.

use std::fmt;

/// What went wrong, as far as the daemon may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// An address cannot be listened on.
    Bind,
    /// The options contradict themselves or are out of range.
    Options,
    /// The operating system refused a thread or a runtime.
    Thread,
    /// It is being done already.
    Busy,
}

/// Why the server did not start, or did not do what was asked of it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<std::io::Error>,
}

impl Error {
    /// An error with a sentence that names the object, the cause and the next step.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// The same, caused by the operating system.
    pub fn io(kind: ErrorKind, source: std::io::Error, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source),
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
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
