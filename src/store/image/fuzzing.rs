//! A door for the fuzz targets (`tools/fuzz`): decoders of files of this room. Only there when built with
//! `--cfg fuzzing`.

use super::import::qcow2_mapping;
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
