//! Why boot services did not start: what, the cause, and the next step.

use std::fmt;
use std::io;

/// What can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootErrorKind {
    /// The settings contradict themselves or this machine.
    Settings,
    /// A network interface is not there or has no IPv4 address.
    Interface,
    /// A port is taken by another program, or may not be bound.
    Port,
    /// A directory or file of loaders cannot be read.
    Loaders,
}

/// The error of this room.
#[derive(Debug)]
pub struct BootError {
    kind: BootErrorKind,
    context: String,
    source: Option<io::Error>,
}

impl BootError {
    pub(crate) fn new(kind: BootErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    pub(crate) fn io(kind: BootErrorKind, source: io::Error, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source),
        }
    }

    /// What can be done about it.
    #[must_use]
    pub const fn kind(&self) -> BootErrorKind {
        self.kind
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for BootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
