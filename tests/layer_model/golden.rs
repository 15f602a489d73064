//! An image in memory.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

use std::sync::Arc;

use reveille::store::volume::Base;
use reveille::store::{Durability, ImageId, LayerId, Result, Volume, VolumeSpec};
use reveille::units::ByteRange;

/// Not a multiple of 4,096: the last block is short.
pub(crate) const SIZE: usize = 40 * 4096 + 1536;
pub(crate) const BOOT: [u8; 16] = [1; 16];

#[derive(Debug)]
pub(crate) struct Golden {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cold: bool,
}

impl Golden {
    pub(crate) fn bytes(seed: u8, size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 512 + i * 7) as u8 ^ seed).collect()
    }
    pub(crate) fn new(seed: u8) -> Arc<Self> {
        Arc::new(Self {
            bytes: Self::bytes(seed, SIZE),
            cold: false,
        })
    }
}

impl Base for Golden {
    fn id(&self) -> ImageId {
        ImageId([self.bytes[0]; 32])
    }
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        if self.cold {
            return Ok(false);
        }
        self.read(offset, out).map(|()| true)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        Ok(())
    }
}

pub(crate) fn spec(layer: u32, image: &Arc<Golden>, durability: Durability) -> VolumeSpec {
    VolumeSpec {
        layer: LayerId(layer),
        image: Arc::clone(image) as Arc<dyn Base>,
        durability,
    }
}

pub(crate) fn all(volume: &Volume) -> Vec<u8> {
    let read = volume
        .read(ByteRange::new(0, volume.size()).unwrap())
        .unwrap();
    read.pieces(0..read.len()).collect::<Vec<_>>().concat()
}
