//! A door for the fuzz targets (`tools/fuzz`): decoders of files of this room. Only there when built with
//! `--cfg fuzzing`.

pub use super::diff::fuzzing::files;
use super::import::layout::{Hold, Layout};
use super::import::vhd::Vhd;
use super::import::vhdx::Vhdx;
use super::import::vmdk::{self, SparseExtent};
use super::import::{qcow2_mapping, vmdk_text};
use super::manifest::Manifest;
use crate::store::ImageId;
use crate::store::error::Result;

/// A manifest's bytes, with the checksum made right first: the size of its disk, its entries, its identity,
/// and the bytes that it is written as again.
///
/// # Errors
/// What the manifest is not.
pub fn manifest(bytes: &mut [u8]) -> Result<(u64, usize, ImageId, Vec<u8>)> {
    super::manifest::mend(bytes);
    let manifest = Manifest::decode(bytes)?;
    let data: Vec<u64> = manifest.data_chunks().collect();
    assert_eq!(data.len(), manifest.entries().len());
    for (number, chunk) in data.iter().enumerate() {
        assert!(*chunk < manifest.chunks());
        assert_eq!(manifest.find(*chunk), Some(number));
    }
    let mut at = 0;
    while at < manifest.chunks() && at < 1 << 20 {
        let (_, len) = manifest.run(at, u64::MAX);
        assert!(len > 0, "a run without an end");
        at += len;
    }
    let count = manifest.entries().len();
    Ok((manifest.size(), count, manifest.id(), manifest.encode()))
}

/// The size of the disk in a qcow2 file of `len` bytes, when its header and its whole mapping are good.
///
/// # Errors
/// What is wrong with the file.
pub fn qcow2(len: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<u64> {
    qcow2_mapping(len, read)
}

/// Which reader of [`foreign`].
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// VHD.
    Vhd,
    /// VHDX.
    Vhdx,
    /// A sparse extent of a VMDK.
    Vmdk,
}

/// The size of the disk in a file of `len` bytes, when its tables are good; its first pieces are looked at,
/// and every one lies inside the file.
///
/// # Errors
/// What is wrong with the file.
pub fn foreign(
    reader: Reader,
    len: u64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<u64> {
    let mut layout: Box<dyn Layout> = match reader {
        Reader::Vhd => Box::new(Vhd::open(len, read)?),
        Reader::Vhdx => Box::new(Vhdx::open(len, read)?),
        Reader::Vmdk => {
            vmdk::text(len, read)?;
            Box::new(SparseExtent::open(len, read)?)
        }
    };
    let size = layout.size();
    let mut at = 0;
    for _ in 0..64 {
        if at >= size {
            break;
        }
        let piece = layout.piece(at, read)?;
        assert!(piece.len > 0, "a piece of nothing at {at}");
        let on_disk = piece.len.min(size - at);
        match piece.hold {
            Hold::Zero | Hold::Parent => {}
            Hold::File(place) => assert!(place + on_disk <= len, "{piece:?} of {len}"),
            Hold::Packed {
                at: place,
                len: bytes,
                whole,
                skip,
            } => {
                assert!(place + u64::from(bytes) <= len, "{piece:?} of {len}");
                assert!(u64::from(skip) + piece.len <= u64::from(whole), "{piece:?}");
            }
        }
        at += on_disk;
    }
    Ok(size)
}

/// The extents that the text of a VMDK names.
///
/// # Errors
/// What is wrong with the text.
pub fn vmdk_extents(text: &[u8]) -> Result<usize> {
    vmdk_text::parse(text).map(|extents| extents.len())
}

/// Makes the checksums of a VHD or VHDX right, as far as there are any.
pub fn mend(bytes: &mut [u8]) {
    let mut put = |from: usize, len: usize, at: usize, sum: fn(&[u8]) -> [u8; 4]| {
        if let Some(part) = bytes.get_mut(from..from + len) {
            let sum = sum(part);
            part[at..at + 4].copy_from_slice(&sum);
        }
    };
    let footer = |part: &[u8]| super::import::vhd::checksum(part, 64).to_be_bytes();
    let header = |part: &[u8]| super::import::vhd::checksum(part, 36).to_be_bytes();
    put(0, 512, 64, footer);
    put(512, 1024, 36, header);
    let vhdx = |part: &[u8]| super::import::vhdx::checksum(part).to_le_bytes();
    for (from, len) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        put(from << 10, len << 10, 4, vhdx);
    }
}
