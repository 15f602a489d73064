//! What lies on the disks: every byte is known by its place, so that all that is read can be checked.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A piece of a disk that is contiguous even on a stretched one.
pub const PIECE: u64 = 1 << 20;
/// Largest transfer of a command.
pub const TRANSFER_MAX: usize = 256 << 10;

/// Pseudo-random numbers, the same each run (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Different numbers for different seeds.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed << 1))
    }

    /// The next one.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, which is far from 2^64.
    pub const fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

/// The part of a disk that is worked on: pieces of 1 MiB, each `stride` bytes behind the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes worked on, whole pieces.
    pub bytes: u64,
    /// Distance of pieces; [`PIECE`] means that there is nothing between them.
    pub stride: u64,
}

impl Span {
    /// The first bytes of a disk.
    #[must_use]
    pub const fn first(bytes: u64) -> Self {
        Self {
            bytes,
            stride: PIECE,
        }
    }

    /// Where the byte `at` of the working set lies on the disk.
    #[must_use]
    pub const fn place(&self, at: u64) -> u64 {
        at / PIECE * self.stride + at % PIECE
    }

    /// Bytes of the disk.
    #[must_use]
    pub const fn disk_bytes(&self) -> u64 {
        self.bytes / PIECE * self.stride
    }
}

/// Makes the file of a disk whose working set is random data; the rest is a hole. It is in the page cache then.
///
/// # Errors
/// When the file cannot be written.
pub fn make_golden(path: &Path, span: Span) -> Result<()> {
    let what = || format!("making {}", path.display());
    let file = File::create(path).with_context(what)?;
    file.set_len(span.disk_bytes()).with_context(what)?;
    let mut random = Random::new(1);
    let mut piece = vec![0; usize::try_from(PIECE)?];
    for at in (0..span.bytes).step_by(piece.len()) {
        for word in piece.as_chunks_mut::<8>().0 {
            *word = random.next().to_le_bytes();
        }
        file.write_all_at(&piece, span.place(at))
            .with_context(what)?;
    }
    Ok(())
}

/// Copies the first bytes of a disk to a file of its own, for a target that writes in place.
///
/// # Errors
/// When it cannot be written.
pub fn copy_first(from: &Path, to: &Path, bytes: u64) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying to {}", to.display()))?;
    let file = File::options().write(true).open(to)?;
    ensure!(
        file.metadata()?.len() >= bytes,
        "{} is too short",
        from.display()
    );
    file.set_len(bytes)?;
    // What is not written back now is written back in the middle of a measurement.
    file.sync_all()?;
    Ok(())
}

/// What the load writes: the byte at offset `n` of a disk is `pattern[n % 1 MiB]`.
#[must_use]
pub fn pattern() -> Vec<u8> {
    let mut random = Random::new(2);
    let piece = 1_usize << 20;
    let mut bytes = Vec::with_capacity(piece + TRANSFER_MAX);
    while bytes.len() < piece {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.extend_from_within(..TRANSFER_MAX);
    bytes
}

/// Where the pattern of this offset begins.
#[must_use]
pub fn pattern_at(offset: u64) -> usize {
    usize::try_from(offset % PIECE).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_pattern_of_a_place_does_not_depend_on_the_transfer() {
        let pattern = pattern();
        let whole = &pattern[pattern_at(3 * PIECE + 4096)..][..8192];
        let second = &pattern[pattern_at(5 * PIECE + 8192)..][..4096];
        assert_eq!(&whole[4096..], second);
        assert!(pattern[pattern_at(PIECE - 512)..].len() >= TRANSFER_MAX);
    }

    #[test]
    fn a_stretched_span_keeps_pieces_whole() {
        let span = Span {
            bytes: 3 * PIECE,
            stride: 10 * PIECE,
        };
        assert_eq!(span.place(PIECE - 512), PIECE - 512);
        assert_eq!(span.place(2 * PIECE + 512), 20 * PIECE + 512);
        assert_eq!(span.disk_bytes(), 30 * PIECE);
        assert_eq!(Span::first(8 * PIECE).place(5 * PIECE + 7), 5 * PIECE + 7);
    }
}
