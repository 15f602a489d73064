//! Files of the store that were damaged or made by somebody else: manifests, and the logs of the layers.
//! Checksums are made right here: a fuzzer would not find them, a person with a hex editor does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arbitrary::Unstructured;
use reveille::limits;
use reveille::store::disk_memory::{MemoryDisk, Sparse};
use reveille::store::image::fuzzing;
use reveille::store::layer::{LayerStore, Options};

const BOOT: [u8; 16] = [7; 16];

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = choose(&mut u);
}

fn choose(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    match u.arbitrary::<u8>()? % 4 {
        0 => {
            manifest(u.bytes(u.len())?.to_vec());
            Ok(())
        }
        1 => built_manifest(u),
        _ => layers(u),
    }
}

/// What is taken is written again as the same bytes, and keeps its identity.
fn manifest(mut bytes: Vec<u8>) {
    let Ok((size, entries, id, again)) = fuzzing::manifest(&mut bytes) else {
        return;
    };
    assert!(size <= limits::DISK_BYTES_MAX && entries as u64 <= size.div_ceil(limits::CHUNK_BYTES));
    let mut copy = again.clone();
    let (_, _, other, _) = fuzzing::manifest(&mut copy).expect("our own manifest");
    assert_eq!(other, id);
    assert_eq!(copy, again);
}

/// A manifest whose header fits its body, but for one byte.
fn built_manifest(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let chunks = u64::from(u.arbitrary::<u16>()?);
    let (cut, odd, at, flip): (u8, u8, u16, u8) = (
        u.arbitrary()?,
        u.arbitrary()?,
        u.arbitrary()?,
        u.arbitrary()?,
    );
    let size = chunks * limits::CHUNK_BYTES + u64::from(odd) * 512;
    let chunks = size.div_ceil(limits::CHUNK_BYTES);
    let mut groups = Vec::new();
    for _ in 0..chunks.div_ceil(64) {
        groups.push(if u.is_empty() {
            0
        } else {
            u.arbitrary::<u64>()?
        });
    }
    if let Some(last) = groups.last_mut()
        && !chunks.is_multiple_of(64)
    {
        *last &= (1 << (chunks % 64)) - 1;
    }
    let entries: u64 = groups.iter().map(|g: &u64| u64::from(g.count_ones())).sum();
    let mut bytes = b"REVEIMG\n".to_vec();
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&65_536_u32.to_le_bytes());
    for word in [size, chunks, entries] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.resize(64, 0);
    groups
        .iter()
        .for_each(|g| bytes.extend_from_slice(&g.to_le_bytes()));
    for n in 0..entries {
        bytes.extend_from_slice(&[n as u8; 32]);
        bytes.extend_from_slice(&(1 + n as u32 % 3).to_le_bytes());
        bytes.extend_from_slice(&(n as u32 % 16_384).to_le_bytes());
    }
    let left = bytes.len().saturating_sub(usize::from(cut));
    bytes.truncate(left);
    let sound = cut == 0 && flip == 0 && size > 0;
    if let Some(byte) = bytes.get_mut(usize::from(at)) {
        *byte ^= flip;
    }
    if sound {
        let mut copy = bytes.clone();
        assert!(
            fuzzing::manifest(&mut copy).is_ok(),
            "a sound manifest is refused"
        );
    }
    manifest(bytes);
    Ok(())
}

/// One log file in the making.
struct Log {
    bytes: Vec<u8>,
    role: u32,
    epoch: u32,
    stamp: u32,
    seq: u32,
    previous: u32,
}

impl Log {
    fn frame(&mut self, payload: &mut Vec<u8>, twist: u8) {
        payload.resize(payload.len().next_multiple_of(8), 0);
        let words = [
            u32::from_le_bytes(*b"RVLF"),
            payload.len() as u32,
            self.epoch,
            self.seq.wrapping_add(u32::from(twist & 1)),
            self.seq,
            self.previous ^ u32::from(twist & 2),
            self.role | self.stamp << 8,
        ];
        let start = self.bytes.len();
        for word in words {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.bytes[start..]), payload);
        self.bytes
            .extend_from_slice(&(crc ^ u32::from(twist & 4)).to_le_bytes());
        self.bytes.append(payload);
        self.seq = self.seq.wrapping_add(1);
        self.previous = crc;
    }
}

fn header(next: u64, before: (u64, u32), version: u8) -> Vec<u8> {
    let mut out = vec![1, version];
    out.extend_from_slice(&BOOT);
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&before.0.to_le_bytes());
    out.extend_from_slice(&before.1.to_le_bytes());
    out
}

/// Appends one entry, well formed or raw.
fn entry(u: &mut Unstructured<'_>, out: &mut Vec<u8>) -> arbitrary::Result<()> {
    let kind: u8 = u.arbitrary()?;
    let (layer, generation): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
    let named = |out: &mut Vec<u8>, kind: u8| {
        out.push(kind);
        out.extend_from_slice(&u32::from(layer & 3).to_le_bytes());
        // Numbers begin at 1: a layer of generation 0 is one that nothing was done to.
        let generation = if generation == 0xff {
            u64::MAX
        } else {
            u64::from(generation & 7).max(1)
        };
        out.extend_from_slice(&generation.to_le_bytes());
    };
    match kind % 14 {
        2 => {
            named(out, 2);
            out.push(u.arbitrary::<u8>()? & 0x0f);
            let size = u64::from(u.arbitrary::<u16>()?) * 4096;
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&[layer; 32]);
        }
        kind @ (3 | 4) => {
            named(out, kind);
            let (first, len): (u16, u16) = (u.arbitrary()?, u.arbitrary()?);
            let first = u32::from(first & 0x3fff);
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&(first + u32::from(len & 0x3ff)).to_le_bytes());
        }
        kind @ (5 | 6 | 9 | 13) => named(out, kind),
        kind @ (7 | 8) => {
            named(out, kind);
            let len = usize::from(u.arbitrary::<u8>()?).min(u.len());
            out.extend_from_slice(&(len as u32).to_le_bytes());
            out.extend_from_slice(u.bytes(len)?);
        }
        // An atomic write, and that it is whole.
        1 => {
            named(out, 11);
            let block: u16 = u.arbitrary()?;
            out.extend_from_slice(&(u64::from(block & 0x3ff) * 512).to_le_bytes());
            let len = usize::from(u.arbitrary::<u8>()?) * 16;
            out.extend_from_slice(&(len as u32).to_le_bytes());
            out.extend_from_slice(&vec![kind; len]);
        }
        12 => {
            named(out, 12);
            let block: u16 = u.arbitrary()?;
            out.extend_from_slice(&(u64::from(block & 0x3ff) * 512).to_le_bytes());
        }
        10 => {
            out.push(10);
            out.extend_from_slice(&u32::from(layer).to_le_bytes());
        }
        11 => {
            let len = usize::from(layer).min(u.len());
            out.extend_from_slice(u.bytes(len)?);
        }
        _ => out.push(0),
    }
    Ok(())
}

/// Where a journal ends, and the checksum of its last frame.
type End = (u64, u32);

/// A directory of logs: the store opens it or says why not, and what it opened it opens again.
fn layers(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut files = BTreeMap::new();
    let mut before = (0, 0);
    let mut links = Links::new();
    for _ in 0..5 {
        if u.is_empty() {
            break;
        }
        let what: u8 = u.arbitrary()?;
        let frames: u8 = u.arbitrary()?;
        let epoch = match what >> 2 & 0x0f {
            0x0f => u32::MAX,
            n => u32::from(n % 4),
        };
        let (name, role, stamp) = match what & 3 {
            0 | 3 => ("journal", 1, 0),
            1 => ("checkpoint", 2, 0),
            _ => ("soft", 3, crc32c::crc32c(&BOOT) >> 8),
        };
        let mut log = Log {
            bytes: Vec::new(),
            role,
            epoch,
            stamp,
            seq: 0,
            previous: 0,
        };
        let version = 1 + (frames >> 4) % 3;
        let said = before;
        let mut payload = header(3, before, version);
        for _ in 0..frames & 0x0f {
            for _ in 0..4 {
                entry(u, &mut payload)?;
            }
            let twist = if what & 0x80 == 0 { 0 } else { u.arbitrary()? };
            log.frame(&mut payload, twist);
        }
        if role != 1 {
            payload.extend_from_slice(&[10, 0, 0, 0, 0]);
            log.frame(&mut payload, 0);
        } else {
            before = (log.bytes.len() as u64, log.previous);
            links.insert(epoch, (said, before));
        }
        if what & 0x40 != 0 {
            let (at, byte): (u16, u8) = (u.arbitrary()?, u.arbitrary()?);
            if let Some(place) = log.bytes.get_mut(usize::from(at)) {
                *place = byte;
            }
        }
        let mut sparse = Sparse::default();
        sparse.write(0, &log.bytes);
        files.insert(format!("layers/{name}.{epoch}"), sparse);
    }
    let dirs = ["layers", "layers/data"].map(str::to_owned);
    // A soft log may contradict the journal about a generation here, as no store of ours ever does.
    let alone = !files
        .keys()
        .any(|path: &String| path.starts_with("layers/soft."));
    let honest = alone && fit_together(&links);
    open_twice(&MemoryDisk::from_parts(files, BTreeSet::from(dirs)), honest);
    Ok(())
}

/// What each journal says about the one before it, and how each really ends, by number.
type Links = BTreeMap<u32, (End, End)>;

/// Each says of the one before it what is so, and none is missing between two others: what recovery makes anew (after
/// a poisoned record, say) would take the missing number, and the next start sees the later one behind it.
fn fit_together(links: &Links) -> bool {
    let true_word = |(epoch, (said, _)): (&u32, &(End, End))| {
        let older = epoch.checked_sub(1).and_then(|e| links.get(&e));
        older.is_none_or(|(_, end)| end == said)
    };
    let epochs: Vec<u32> = links.keys().copied().collect();
    let in_row = epochs
        .windows(2)
        .all(|two| two[0].checked_add(1) == Some(two[1]));
    in_row && links.iter().all(true_word)
}

/// `honest`: the journals fit together, so that a second start finds what the first one left.
fn open_twice(disk: &MemoryDisk, honest: bool) {
    let options = || Options {
        background: false,
        journal_step: 4096,
        ..Options::default()
    };
    let open = || LayerStore::open_with(Arc::new(disk.clone()), BOOT, options());
    show(disk);
    let Ok((store, first)) = open() else { return };
    drop(store);
    show(disk);
    match open() {
        Ok((_, second)) if honest => {
            if crate::is_replay() {
                eprintln!("first {first:?}\nsecond {second:?}");
            }
            assert_eq!(first.layers, second.layers, "layers came or went");
            // More may be told the second time: a history that uses a generation twice, which ours never do.
            let again = |(layer, _): &(_, String)| second.damaged.iter().any(|(l, _)| l == layer);
            assert!(first.damaged.iter().all(again), "damage that is forgotten");
        }
        Ok(_) => {}
        Err(error) => assert!(!honest, "it was opened once and not again: {error}"),
    }
}

/// What a replay prints: the files, as they are before and after the first start.
fn show(disk: &MemoryDisk) {
    if crate::is_replay() {
        for (path, bytes) in disk.parts().0 {
            let mut all = vec![0; bytes.len().min(400) as usize];
            bytes.read(0, &mut all);
            eprintln!("{path}: {} bytes {all:02x?}", bytes.len());
        }
    }
}
