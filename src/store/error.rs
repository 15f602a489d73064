//! One error for the room: a kind that callers act on, a context that people read, the source.

use std::fmt;

/// What went wrong, as far as a caller may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The operating system refused or failed an operation.
    Io,
    /// Bytes on the medium are not what was written there.
    Corrupt,
    /// An input file is not what it claims to be.
    InvalidFormat,
    /// Well formed, but not supported.
    Unsupported,
    /// Outside the disk.
    OutOfBounds,
    /// No such image, layer or file.
    NotFound,
    /// Already there, or in use.
    Busy,
    /// No space left, or a layer's limit reached.
    NoSpace,
    /// The handle belongs to a generation of the layer that was reset or closed.
    Fenced,
    /// An earlier sync failed: nothing more is acknowledged for this layer.
    Poisoned,
    /// The caller asked to stop.
    Cancelled,
    /// Written by a newer version of Reveille.
    NewerVersion,
}

/// An error of the store: kind, what it concerns, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<std::io::Error>,
    at: Option<u64>,
}

/// Result of the store.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a sentence that names the object, the cause and where it helps the next step.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
            at: None,
        }
    }

    /// An operating system error with what was being done. `ENOSPC` and `EDQUOT` become [`ErrorKind::NoSpace`].
    pub fn io(source: std::io::Error, context: impl Into<String>) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                ErrorKind::NoSpace
            }
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self {
            kind,
            context: context.into(),
            source: Some(source),
            at: None,
        }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The first byte of the disk that could not be had, where that is known.
    #[must_use]
    pub const fn disk_offset(&self) -> Option<u64> {
        self.at
    }

    /// Says which byte of the disk is the first that could not be had.
    #[must_use]
    pub const fn at_disk_offset(mut self, offset: u64) -> Self {
        self.at = Some(offset);
        self
    }

    /// Puts what was being attempted in front of the context.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
