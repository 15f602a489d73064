//! What keeps a swarm from running at all. What a single node meets is in its report.

/// What a caller may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The trace or an argument cannot be used.
    Invalid,
    /// The operating system refused something.
    Io,
}

/// Object, cause, next step.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
}

impl Error {
    /// An argument or a trace that cannot be used.
    pub(super) fn invalid(context: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            context: context.into(),
        }
    }

    /// A failure of the operating system.
    pub(super) fn io(what: &str, source: &std::io::Error) -> Self {
        Self {
            kind: ErrorKind::Io,
            context: format!("{what}: {source}"),
        }
    }

    /// What a caller may act on.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}
