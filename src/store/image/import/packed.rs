//! A raw disk in a gzip, xz or zstd file.
//!
//! How large the disk is can only be known by unpacking it, so it is unpacked twice: once to count, to check
//! every checksum and to look at the partition table; once to import. Nothing is put on disk in between, so
//! a file that grows to terabytes costs time that can be cancelled, and no space. The memory of a decoder is
//! bounded. Files of several members, streams or frames are one disk; what follows them must be nothing, or
//! zeros where the format allows padding.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::magic::{Content, Magic, Packing};
use super::{Extent, ExtentKind, Input, Source, raw};
use crate::limits::CHUNK_BYTES;
use crate::limits::DISK_BYTES_MAX;
use crate::limits::UNPACK_HEAD_BYTES;
use crate::limits::UNPACK_MEMORY_KIB;
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::image::ingest::Watch;
use crate::store::image::manifest;
use crate::units::ByteRange;

/// Bytes unpacked at a time.
const STEP: usize = 256 << 10;
/// Bytes of the end that are kept: a GUID partition table has its second copy there.
const TAIL: usize = 64 << 10;

/// A packed raw disk.
pub(super) struct Packed {
    input: Input,
    packing: Packing,
    size: u64,
    /// The first bytes of the disk.
    head: Vec<u8>,
    decoder: Decoder,
    /// Where on the disk the decoder is.
    at: u64,
    scratch: Vec<u8>,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({:?}, {:?})", self.packing, self.input.path)
    }
}

/// What unpacking once has told.
struct Counted {
    size: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Packed {
    pub(super) fn new(input: Input, packing: Packing, watch: Watch<'_>) -> Result<Self> {
        let counted = count(&input, packing, watch)?;
        let magic = Magic {
            head: *counted.head.first_chunk().unwrap_or(&[0; 512]),
            tail: *counted.tail.last_chunk().unwrap_or(&[0; 512]),
        };
        if let Some(inner) = inner_name(magic.content()) {
            let why = format!(
                "{} holds a {inner} file, and only raw disks are read from {}; unpack it first",
                input.path.display(),
                packing.name()
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        manifest::check_size(counted.size).map_err(|e| e.within(input.path.display()))?;
        raw::check_whole(&input.path, counted.size, &mut |offset, out| {
            counted.look(offset, out);
            Ok(())
        })?;
        let decoder = Decoder::new(&input, packing)?;
        Ok(Self {
            input,
            packing,
            size: counted.size,
            head: counted.head,
            decoder,
            at: 0,
            scratch: Vec::new(),
        })
    }

    /// Unpacks the next bytes of the disk.
    fn next(&mut self, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let read = self.decoder.step(&mut out[done..]);
            let read = read.map_err(|e| unreadable(&self.input, self.packing, &e))?;
            done += read.ok_or_else(|| {
                let why = format!("ended after {} bytes of its disk of {}", self.at, self.size);
                self.input.refuse(&why)
            })?;
        }
        self.at += done as u64;
        Ok(())
    }
}

impl Source for Packed {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let range = ByteRange::new(from, self.size.saturating_sub(from)).filter(|r| !r.is_empty());
        let kind = ExtentKind::Data;
        range.map(|range| Extent { range, kind }).ok_or_else(|| {
            let why = format!("offset {from} is past the disk");
            Error::new(ErrorKind::OutOfBounds, why)
        })
    }

    /// In order this is cheap; to go back is to unpack from the start.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = self.head.get(from..).unwrap_or_default();
        if self.at != offset
            && let Some(held) = held.get(..out.len())
        {
            out.copy_from_slice(held);
            return Ok(());
        }
        if offset < self.at {
            self.decoder = Decoder::new(&self.input, self.packing)?;
            self.at = 0;
        }
        while self.at < offset {
            let mut scratch = std::mem::take(&mut self.scratch);
            let len = (offset - self.at).min(CHUNK_BYTES);
            scratch.resize(usize::try_from(len).unwrap_or(0), 0);
            let skipped = self.next(&mut scratch);
            self.scratch = scratch;
            skipped?;
        }
        self.next(out)
    }

    fn finish(&mut self) -> Result<()> {
        self.input.check_unchanged()
    }
}

/// Unpacks everything once.
fn count(input: &Input, packing: Packing, watch: Watch<'_>) -> Result<Counted> {
    let mut decoder = Decoder::new(input, packing)?;
    let mut counted = Counted {
        size: 0,
        head: Vec::new(),
        tail: Vec::new(),
    };
    let mut buffer = vec![0; STEP];
    loop {
        watch.step(decoder.place(), input.len, "the import")?;
        let read = decoder.step(&mut buffer);
        let Some(read) = read.map_err(|e| unreadable(input, packing, &e))? else {
            return Ok(counted);
        };
        counted.take(&buffer[..read]);
        if counted.size > DISK_BYTES_MAX {
            let why = format!(
                "{} unpacks to more than {DISK_BYTES_MAX} bytes, the largest supported disk",
                input.path.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
    }
}

impl Counted {
    fn take(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let room = UNPACK_HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.tail
            .extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
    }

    /// Fills `out` from what was kept; what was not kept is taken for zeros. That is enough for a partition
    /// table: the sizes that it claims stand in the first or the last sectors.
    fn look(&self, offset: u64, out: &mut [u8]) {
        let end = self.size - self.tail.len() as u64;
        for (byte, at) in out.iter_mut().zip(offset..) {
            let (held, at) = match at.checked_sub(end) {
                Some(at) => (&self.tail, at),
                None => (&self.head, at),
            };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            *byte = held.get(at).copied().unwrap_or(0);
        }
    }
}

fn inner_name(content: Content) -> Option<&'static str> {
    match content {
        Content::Raw => None,
        Content::Qcow2 => Some("qcow2"),
        Content::Vhd => Some("VHD"),
        Content::Vhdx => Some("VHDX"),
        Content::Vmdk => Some("VMDK"),
        Content::Packed(packing) => Some(packing.name()),
        Content::Foreign(name, _) => Some(name),
    }
}

fn unreadable(input: &Input, packing: Packing, e: &io::Error) -> Error {
    let (path, name) = (input.path.display(), packing.name());
    let why = match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("{path} ends inside its {name} data: it is cut short; copy it again")
        }
        _ => format!("{path} is damaged ({name}: {}); copy it again", plain(e)),
    };
    Error::new(ErrorKind::InvalidFormat, why)
}

/// A decoder's words on one line, and not too many of them.
fn plain(e: &io::Error) -> String {
    super::layout::shown(&e.to_string())
}

/// A file from a place on.
struct FileAt {
    file: Arc<fs::File>,
    at: u64,
}

impl Read for FileAt {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(out, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

type Feed = BufReader<FileAt>;

/// A decoder of a whole file.
struct Decoder {
    packing: Packing,
    state: State,
    place: u64,
}

enum State {
    /// Before the next member or frame.
    Between(Feed),
    Gzip(GzDecoder<Feed>),
    Xz(Box<XzReader<Feed>>),
    Zstd(Box<Frame>),
    Ended,
}

impl Decoder {
    fn new(input: &Input, packing: Packing) -> Result<Self> {
        let file = input.file.try_clone().map_err(|e| {
            let why = format!("cannot read {}", input.path.display());
            Error::io(e, why)
        })?;
        let file = FileAt {
            file: Arc::new(file),
            at: 0,
        };
        Ok(Self {
            packing,
            state: State::Between(BufReader::with_capacity(64 << 10, file)),
            place: 0,
        })
    }

    /// How far in the file it has read.
    const fn place(&self) -> u64 {
        self.place
    }

    /// Unpacks some bytes: none does not mean the end, which is `None`.
    fn step(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let (state, read) = match state {
            State::Ended => return Ok(None),
            State::Between(feed) => {
                self.place = feed.get_ref().at;
                let state = begin(self.packing, feed)?;
                if matches!(state, State::Ended) {
                    return Ok(None);
                }
                (state, 0)
            }
            State::Gzip(mut gzip) => match gzip.read(out)? {
                0 => (State::Between(gzip.into_inner()), 0),
                read => {
                    self.place = gzip.get_ref().get_ref().at;
                    (State::Gzip(gzip), read)
                }
            },
            State::Xz(mut xz) => match xz.read(out)? {
                0 => return Ok(None),
                read => {
                    self.place = xz.inner().get_ref().at;
                    (State::Xz(xz), read)
                }
            },
            State::Zstd(mut frame) => match frame.step(out)? {
                None => (State::Between(frame.end()?), 0),
                Some(read) => {
                    self.place = frame.feed.get_ref().at;
                    (State::Zstd(frame), read)
                }
            },
        };
        self.state = state;
        Ok(Some(read))
    }
}

/// Begins the next member or frame, if one is there.
fn begin(packing: Packing, mut feed: Feed) -> io::Result<State> {
    let ahead = feed.fill_buf()?;
    if ahead.is_empty() {
        return Ok(State::Ended);
    }
    match packing {
        // Tapes and block devices pad with zeros, which gzip(1) passes over too.
        Packing::Gzip if ahead[0] == 0 => only_zeros(feed),
        Packing::Gzip => Ok(State::Gzip(GzDecoder::new(feed))),
        Packing::Xz => {
            let xz = XzReader::new_mem_limit(feed, true, UNPACK_MEMORY_KIB);
            Ok(State::Xz(Box::new(xz)))
        }
        Packing::Zstd => begin_frame(feed),
    }
}

fn only_zeros(mut feed: Feed) -> io::Result<State> {
    loop {
        let ahead = feed.fill_buf()?;
        if ahead.is_empty() {
            return Ok(State::Ended);
        }
        if ahead.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("something else follows the data"));
        }
        let len = ahead.len();
        feed.consume(len);
    }
}

/// A zstd frame that is being unpacked.
struct Frame {
    feed: Feed,
    decoder: FrameDecoder,
    done: u64,
}

fn begin_frame(mut feed: Feed) -> io::Result<State> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(u64::from(UNPACK_MEMORY_KIB) << 10);
    match decoder.init(&mut feed) {
        Ok(()) => Ok(State::Zstd(Box::new(Frame {
            feed,
            decoder,
            done: 0,
        }))),
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
            length,
            ..
        })) => {
            let skipped = io::copy(&mut (&mut feed).take(length.into()), &mut io::sink())?;
            if skipped < u64::from(length) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(State::Between(feed))
        }
        Err(e) => Err(frame_error(&mut feed, &e)),
    }
}

impl Frame {
    fn step(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let decoder = &mut self.decoder;
        if decoder.can_collect() == 0 {
            if decoder.is_finished() {
                return Ok(None);
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            let block = decoder.decode_blocks(&mut self.feed, one);
            block.map_err(|e| frame_error(&mut self.feed, &e))?;
        }
        let read = self.decoder.read(out)?;
        self.done += read as u64;
        Ok(Some(read))
    }

    /// Checks what the frame promised of itself.
    fn end(self) -> io::Result<Feed> {
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("a checksum is wrong"));
        }
        let said = self.decoder.content_size();
        if said != 0 && said != self.done {
            let why = format!("a frame of {said} bytes unpacks to {}", self.done);
            return Err(io::Error::other(why));
        }
        Ok(self.feed)
    }
}

/// A decoder that came to the end of the file found it cut short.
fn frame_error(feed: &mut Feed, e: &FrameDecoderError) -> io::Error {
    match feed.fill_buf() {
        Ok(ahead) if !ahead.is_empty() => io::Error::other(e.to_string()),
        _ => io::ErrorKind::UnexpectedEof.into(),
    }
}
