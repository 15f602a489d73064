//! What a LUN serves: a layer over an image. (Stand-in until the real engine is merged.)

use std::sync::{Arc, Mutex};

use super::disk::Disk;
use super::error::{Error, ErrorKind};
use super::layer::{self, BLOCK, State};
use super::{Buffer, Image, LayerId, Payload, Result};
use crate::units::{BLOCK_BYTES, ByteRange};

/// State of an extent, for GET LBA STATUS (SBC-3 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Holds data.
    Mapped,
    /// Reads zeros.
    Deallocated,
}

/// What COMPARE AND WRITE found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Equal; the new data is written.
    Written,
    /// The byte at this offset of the compared data is the first that differs; nothing is written.
    Differs(u64),
}

/// An open volume of one generation of one layer. Offsets may be any multiple of 512.
/// After a reset of the layer every operation answers `ErrorKind::Fenced`.
#[derive(Debug)]
pub struct Volume {
    disk: Arc<dyn Disk>,
    layer: LayerId,
    image: Arc<Image>,
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl Volume {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        layer: LayerId,
        image: Arc<Image>,
        state: Arc<Mutex<State>>,
        generation: u64,
    ) -> Self {
        Self {
            disk,
            layer,
            image,
            state,
            generation,
        }
    }

    fn block(&self, state: &State, block: u64) -> Result<Vec<u8>> {
        if state.generation != self.generation {
            return Err(Error::new(ErrorKind::Fenced, "fenced"));
        }
        if let Some(bytes) = state.blocks.get(&block) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; BLOCK];
        self.image.read(block * BLOCK_BYTES, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.image.size()
    }
    /// The bytes if all are in memory, else `None`. Never blocks on I/O, takes no global lock.
    pub fn try_read(&self, _range: ByteRange) -> Result<Option<Payload>> {
        Ok(None)
    }
    /// The bytes; may block.
    pub fn read(&self, range: ByteRange) -> Result<Payload> {
        let state = layer::lock(&self.state);
        let mut all = Vec::new();
        for block in range.blocks() {
            all.extend(self.block(&state, block)?);
        }
        let skip = usize::try_from(range.offset() % BLOCK_BYTES).unwrap_or(0);
        let len = usize::try_from(range.len()).unwrap_or(0);
        let mut buffer = Buffer::take(len);
        buffer.copy_from_slice(&all[skip..skip + len]);
        Ok(buffer.freeze())
    }
    /// Writes; may block. When it returns, the data survives the death of this process.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = layer::lock(&self.state);
        for (at, byte) in (offset..).zip(data) {
            let block = at / BLOCK_BYTES;
            let mut bytes = self.block(&state, block)?;
            bytes[usize::try_from(at % BLOCK_BYTES).unwrap_or(0)] = *byte;
            state.blocks.insert(block, bytes);
        }
        layer::save(&*self.disk, self.layer, &state.blocks)
    }
    /// When it returns, all earlier writes are as durable as the layer's class promises. May block.
    pub fn flush(&self) -> Result<()> {
        Ok(())
    }
    /// Makes the range read zeros and gives its space back; exact to the byte. May block.
    pub fn unmap(&self, range: ByteRange) -> Result<()> {
        self.write(
            range.offset(),
            &vec![0; usize::try_from(range.len()).unwrap_or(0)],
        )
    }
    /// The state at `offset` and how many bytes from there share it, looking at most at `len` bytes.
    pub fn extent(&self, _offset: u64, len: u64) -> Result<(ExtentState, u64)> {
        Ok((ExtentState::Mapped, len))
    }
    /// Writes `new` over `old` if the disk holds `old`, atomically against every other write. May block.
    pub fn compare_and_write(&self, _offset: u64, _old: &[u8], _new: &[u8]) -> Result<Compared> {
        Err(Error::new(ErrorKind::Unsupported, "stand-in"))
    }
    /// ORs `data` into the disk, atomically against every other write (SBC-3 5.14). May block.
    pub fn or_write(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "stand-in"))
    }
}
