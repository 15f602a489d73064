//! OVMF's variable store, as far as a lab needs it: a variable can be added before the first power-on.
//!
//! The file is a firmware volume (PI 1.7, volume 3, 3.2.1) that holds a variable store with authenticated
//! headers. All numbers are little-endian.

use anyhow::{Context, Result, ensure};

/// Kept over power cycles, hidden from the operating system (UEFI 2.10, 8.2: `NV`, `BS`).
pub const NV_BS: u32 = 3;

const VOLUME_SIGNATURE: &[u8] = b"_FVH";
/// aaf32c78-947b-439a-a180-2e144ec37792: variables with authenticated headers.
const STORE_GUID: [u8; 16] = [
    0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92,
];
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;
const VARIABLE_START: [u8; 2] = [0xaa, 0x55];
const VARIABLE_ADDED: u8 = 0x3f;

/// A GUID as firmware stores it, from its text of hexadecimal digits.
///
/// # Errors
/// When the text is no GUID.
pub fn guid(text: &str) -> Result<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let value =
        u128::from_str_radix(&digits, 16).with_context(|| format!("`{text}` is no GUID"))?;
    ensure!(digits.len() == 32, "`{text}` is no GUID");
    let mut bytes = value.to_be_bytes();
    // The first three fields are numbers, the rest is bytes (UEFI 2.10, appendix A).
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}

fn word(store: &[u8], at: usize) -> Result<usize> {
    let bytes = store.get(at..at + 4).context("the store ends early")?;
    let value = u32::from_le_bytes(bytes.try_into().context("four bytes")?);
    Ok(usize::try_from(value)?)
}

/// Where the variables begin, where the store ends, and where the next variable goes.
fn bounds(store: &[u8]) -> Result<(usize, usize, usize)> {
    ensure!(
        store.get(0x28..0x2c) == Some(VOLUME_SIGNATURE),
        "no firmware volume"
    );
    let header = usize::from(u16::from_le_bytes([store[0x30], store[0x31]]));
    ensure!(
        store.get(header..header + 16) == Some(&STORE_GUID[..]),
        "no store of authenticated variables"
    );
    let end = (header + word(store, header + 16)?).min(store.len());
    let first = header + STORE_HEADER;
    let mut at = first;
    while store.get(at..at + 2) == Some(&VARIABLE_START[..]) {
        at = (at + VARIABLE_HEADER + word(store, at + 36)? + word(store, at + 40)?)
            .next_multiple_of(4);
    }
    Ok((first, end, at))
}

/// Adds a variable to the store. Whether there is one of that name already is not asked: use a fresh store.
///
/// # Errors
/// When `store` is no such store, or is full.
pub fn add(
    store: &mut [u8],
    vendor: [u8; 16],
    name: &str,
    attributes: u32,
    data: &[u8],
) -> Result<()> {
    let (_, end, at) = bounds(store)?;
    let name: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut bytes = Vec::from(VARIABLE_START);
    bytes.extend([VARIABLE_ADDED, 0]);
    bytes.extend(attributes.to_le_bytes());
    // Monotonic count, time stamp and public key index: of authenticated variables only.
    bytes.extend([0; 28]);
    bytes.extend(u32::try_from(name.len())?.to_le_bytes());
    bytes.extend(u32::try_from(data.len())?.to_le_bytes());
    bytes.extend(vendor);
    bytes.extend(name);
    bytes.extend(data);
    ensure!(at + bytes.len() < end, "the store is full");
    store[at..at + bytes.len()].copy_from_slice(&bytes);
    Ok(())
}

/// The newest value of a variable, if it has one.
///
/// # Errors
/// When `store` is no such store.
pub fn read(store: &[u8], vendor: [u8; 16], name: &str) -> Result<Option<Vec<u8>>> {
    let (mut at, _, end) = bounds(store)?;
    let wanted: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut found = None;
    while at < end {
        let (name_len, data_len) = (word(store, at + 36)?, word(store, at + 40)?);
        let name_at = at + VARIABLE_HEADER;
        let data_at = name_at + name_len;
        let same = store.get(name_at..data_at) == Some(&wanted[..])
            && store.get(at + 44..at + 60) == Some(&vendor[..]);
        if same && store[at + 2] == VARIABLE_ADDED {
            found = store.get(data_at..data_at + data_len).map(<[u8]>::to_vec);
        }
        at = (data_at + data_len).next_multiple_of(4);
    }
    Ok(found)
}

#[cfg(test)]
mod test {
    use super::*;

    fn empty_store() -> Vec<u8> {
        let mut store = vec![0xff_u8; 4096];
        store[..0x48].fill(0);
        store[0x28..0x2c].copy_from_slice(VOLUME_SIGNATURE);
        store[0x30..0x32].copy_from_slice(&0x48_u16.to_le_bytes());
        store[0x48..0x58].copy_from_slice(&STORE_GUID);
        store[0x58..0x5c].copy_from_slice(&2048_u32.to_le_bytes());
        store[0x5c..0x64].fill(0);
        store
    }

    #[test]
    fn guids_are_stored_with_their_first_three_fields_turned_around() {
        assert_eq!(
            guid("aaf32c78-947b-439a-a180-2e144ec37792").unwrap(),
            STORE_GUID
        );
        assert!(guid("aaf32c78").is_err());
    }

    #[test]
    fn what_was_added_is_read_back_behind_what_was_there() {
        let mut store = empty_store();
        let vendor = guid("4b47d616-a8d6-4552-9d44-ccad2e0f4cf9").unwrap();
        add(&mut store, vendor, "One", NV_BS, &[1, 2, 3]).unwrap();
        add(&mut store, vendor, "Two", NV_BS, &[4]).unwrap();
        assert_eq!(read(&store, vendor, "One").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(read(&store, vendor, "Two").unwrap(), Some(vec![4]));
        assert_eq!(read(&store, STORE_GUID, "Two").unwrap(), None);
    }

    #[test]
    fn a_full_store_and_a_file_that_is_none_are_refused() {
        let mut store = empty_store();
        assert!(add(&mut store, STORE_GUID, "Big", NV_BS, &[0; 2048]).is_err());
        assert!(add(&mut [0; 4096], STORE_GUID, "Any", NV_BS, &[]).is_err());
    }

    #[test]
    fn the_packaged_store_is_such_a_store() {
        let path = std::path::Path::new("/usr/share/OVMF/OVMF_VARS.fd");
        if path.exists() {
            let (first, end, next) = bounds(&std::fs::read(path).unwrap()).unwrap();
            assert!(first <= next && next < end);
        }
    }
}
