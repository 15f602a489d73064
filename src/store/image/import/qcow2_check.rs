//! Looks at the header and at every mapping of a qcow2 file before it is used. Pure over a reader.
//!
//! Layout: "qcow2 Image Format" in QEMU's `docs/interop/qcow2.txt`. All numbers are big-endian. A guest
//! offset goes through the L1 table (one entry per L2 table) and an L2 table (one entry per cluster).

use crate::limits::DISK_BYTES_MAX;
use crate::limits::QCOW2_L1_BYTES_MAX;
use crate::limits::QCOW2_REFTABLE_BYTES_MAX;
use crate::store::error::{Error, ErrorKind, Result};

/// Fills a buffer from an offset of the file.
pub(super) type Read<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

const HEADER_V2_BYTES: u64 = 72;
const HEADER_V3_LEN: usize = 104;
const HEADER_V3_BYTES: u64 = HEADER_V3_LEN as u64;
/// Bits 9 to 55 of an L1 or L2 entry.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits that must be zero in an L1 entry, and in the entry of a cluster that is not compressed.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const COMPRESSED: u64 = 1 << 62;
const ALL_ZEROS: u64 = 1;

/// Incompatible feature bits: name for people, and what to do.
const FEATURES: [(u32, &str, &str); 5] = [
    (
        0,
        "was not closed cleanly (dirty bit)",
        "repair it: qemu-img check -r all FILE",
    ),
    (
        1,
        "is marked corrupt",
        "repair it: qemu-img check -r all FILE",
    ),
    (2, "keeps its data in an external file", FLATTEN),
    (3, "uses a compression other than zlib", FLATTEN),
    (4, "uses extended L2 entries", FLATTEN),
];
const FLATTEN: &str = "flatten it first: qemu-img convert -O qcow2 IN OUT";

/// Characters of a backing file's name that a message repeats.
const NAME_CHARS_SHOWN: usize = 200;

struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    l1_entries: u64,
    l1_offset: u64,
}

/// Checks a file of `len` bytes and returns the size of the disk in it.
///
/// # Errors
/// `InvalidFormat` with the offset and the reason; `Unsupported` with the way out.
pub(super) fn check(len: u64, read: &mut Read<'_>) -> Result<u64> {
    let header = Header::read(len, read)?;
    let cluster = 1_u64 << header.cluster_bits;
    let per_table = cluster / 8;
    let mut table = vec![0; usize::try_from(cluster).map_err(|_| bad("cluster size"))?];
    for number in 0..header.l1_needed() {
        let at = header.l1_offset + number * 8;
        let mut raw = [0; 8];
        read(at, &mut raw)?;
        let entry = u64::from_be_bytes(raw);
        let offset = entry & OFFSET_MASK;
        if entry & L1_RESERVED != 0 || !offset.is_multiple_of(cluster) {
            return Err(bad(&format!(
                "L1 entry {number} at offset {at} is {entry:#x}, which cannot be"
            )));
        }
        if offset == 0 {
            continue;
        }
        if offset.checked_add(cluster).is_none_or(|end| end > len) {
            return Err(cut(len, offset, cluster, &format!("L2 table {number}")));
        }
        read(offset, &mut table)?;
        let first = number * per_table;
        for (nth, raw) in (0..).zip(table.as_chunks::<8>().0) {
            let place = L2Place {
                number: first + nth,
                at: offset + nth * 8,
                file_len: len,
            };
            header.check_cluster(u64::from_be_bytes(*raw), place)?;
        }
    }
    Ok(header.size)
}

/// Where an L2 entry stands.
#[derive(Clone, Copy)]
struct L2Place {
    number: u64,
    at: u64,
    file_len: u64,
}

impl Header {
    fn read(len: u64, read: &mut Read<'_>) -> Result<Self> {
        if len < HEADER_V2_BYTES {
            return Err(cut(len, 0, HEADER_V2_BYTES, "the header"));
        }
        let mut raw = [0; HEADER_V3_LEN];
        let have = usize::try_from(len.min(HEADER_V3_BYTES)).unwrap_or(raw.len());
        read(0, &mut raw[..have])?;
        let version = word(&raw, 4);
        if version != 2 && version != 3 {
            return Err(unsupported(
                &format!("qcow version {version} is not supported"),
                FLATTEN,
            ));
        }
        if version == 3 {
            if len < HEADER_V3_BYTES {
                return Err(cut(len, 0, HEADER_V3_BYTES, "the header"));
            }
            check_features(long(&raw, 72))?;
        }
        let backing = long(&raw, 8);
        if backing != 0 {
            return Err(refuse_backing(backing, word(&raw, 16), len, read));
        }
        if word(&raw, 32) != 0 {
            return Err(unsupported("it is encrypted", FLATTEN));
        }
        let header = Self {
            version,
            cluster_bits: word(&raw, 20),
            size: long(&raw, 24),
            l1_entries: u64::from(word(&raw, 36)),
            l1_offset: long(&raw, 40),
        };
        header.check_tables(len, long(&raw, 48), u64::from(word(&raw, 56)))?;
        Ok(header)
    }

    fn check_tables(&self, len: u64, refs_offset: u64, refs_clusters: u64) -> Result<()> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(bad(&format!(
                "cluster_bits at offset 20 is {}, not 9 to 21",
                self.cluster_bits
            )));
        }
        if self.size > DISK_BYTES_MAX {
            let why = format!(
                "its disk has {} bytes, the largest supported one {DISK_BYTES_MAX}",
                self.size
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let l1_bytes = self.l1_entries * 8;
        if l1_bytes > QCOW2_L1_BYTES_MAX || self.l1_entries < self.l1_needed() {
            let why = format!(
                "l1_size at offset 36 is {}, {} are needed",
                self.l1_entries,
                self.l1_needed()
            );
            return Err(bad(&why));
        }
        let refs_bytes = refs_clusters << self.cluster_bits;
        if refs_clusters == 0 || refs_bytes > QCOW2_REFTABLE_BYTES_MAX {
            return Err(bad(&format!(
                "refcount_table_clusters at offset 56 is {refs_clusters}"
            )));
        }
        for (offset, bytes, what) in [
            (self.l1_offset, l1_bytes, "the L1 table"),
            (refs_offset, refs_bytes, "the refcount table"),
        ] {
            if !offset.is_multiple_of(1 << self.cluster_bits) || (offset == 0 && bytes != 0) {
                return Err(bad(&format!("{what} is said to lie at offset {offset}")));
            }
            if offset.checked_add(bytes).is_none_or(|end| end > len) {
                return Err(cut(len, offset, bytes, what));
            }
        }
        Ok(())
    }

    /// Entries of the L1 table that the size needs.
    fn l1_needed(&self) -> u64 {
        // An L2 table fills a cluster with entries of 8 bytes.
        self.size.div_ceil(1 << (2 * self.cluster_bits - 3))
    }

    fn check_cluster(&self, entry: u64, place: L2Place) -> Result<()> {
        let cluster = 1_u64 << self.cluster_bits;
        let guest = place.number.saturating_mul(cluster);
        if guest >= self.size {
            return Ok(());
        }
        let (offset, bytes) = if entry & COMPRESSED != 0 {
            self.compressed(entry)
        } else {
            let zeros = entry & ALL_ZEROS != 0;
            let offset = entry & OFFSET_MASK;
            let odd = entry & L2_RESERVED != 0 || (zeros && self.version < 3);
            if odd || !offset.is_multiple_of(cluster) {
                let why = format!(
                    "the L2 entry at offset {} (disk offset {guest}) is {entry:#x}, which cannot be",
                    place.at
                );
                return Err(bad(&why));
            }
            if offset == 0 || zeros {
                return Ok(());
            }
            // The last cluster may be cut where the disk ends.
            (offset, cluster.min(self.size - guest))
        };
        if offset
            .checked_add(bytes)
            .is_none_or(|end| end > place.file_len)
        {
            let what = format!("the data of disk offset {guest}");
            return Err(cut(place.file_len, offset, bytes, &what));
        }
        Ok(())
    }

    /// Offset of compressed data and how many bytes of it must be there at least: it ends somewhere in its
    /// last sector of 512 bytes.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let split = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << split) - 1);
        let more = (entry & (COMPRESSED - 1)) >> split;
        let last = (offset & !511) + more * 512;
        (offset, last.saturating_sub(offset) + 1)
    }
}

fn check_features(bits: u64) -> Result<()> {
    for (bit, what, way_out) in FEATURES {
        if bits >> bit & 1 == 1 {
            return Err(unsupported(&format!("it {what}"), way_out));
        }
    }
    match bits {
        0 => Ok(()),
        _ => Err(unsupported(
            &format!("it uses unknown incompatible features {bits:#x}"),
            FLATTEN,
        )),
    }
}

fn refuse_backing(offset: u64, len: u32, file_len: u64, read: &mut Read<'_>) -> Error {
    // QEMU allows names of at most 1,023 bytes.
    let mut name = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(1023)];
    let inside = offset
        .checked_add(name.len() as u64)
        .is_some_and(|end| end <= file_len);
    let name = match inside && read(offset, &mut name).is_ok() {
        true => shown(&name),
        false => "?".into(),
    };
    unsupported(
        &format!("it is only the difference to its backing file `{name}`"),
        FLATTEN,
    )
}

/// A name out of a file, for one line of a message.
fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut text: String = name.chars().take(NAME_CHARS_SHOWN).collect();
    if text.len() < name.len() {
        text.push_str("...");
    }
    text.escape_debug().to_string()
}

fn word(bytes: &[u8; HEADER_V3_LEN], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(raw)
}

fn long(bytes: &[u8; HEADER_V3_LEN], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(raw)
}

fn bad(why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidFormat,
        format!("damaged qcow2 file: {why}"),
    )
}

fn unsupported(why: &str, way_out: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{why}; {way_out}"))
}

fn cut(len: u64, offset: u64, bytes: u64, what: &str) -> Error {
    let why = format!(
        "the file ends at offset {len}, but {what} lies at {offset}+{bytes}: it is cut short; copy it again"
    );
    Error::new(ErrorKind::InvalidFormat, why)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Found by the fuzz target `disk`: 1,023 bytes of anything became a message of 8,000 characters.
    #[test]
    fn the_name_of_a_backing_file_is_repeated_only_in_part() {
        let mut file = vec![0; 2048];
        file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        file[8..16].copy_from_slice(&1024_u64.to_be_bytes());
        file[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        let refused = check(2048, &mut |offset, out| {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&file[at..at + out.len()]);
            Ok(())
        });
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("backing file") && text.contains("...`"),
            "{text}"
        );
        assert!(text.len() < 1000 && !text.contains('\0'), "{text}");
    }
}
