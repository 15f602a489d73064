//! File systems of disks that somebody brings along: a small real one, harmed here and there, compared with
//! the whole one. The first byte chooses which; then each harm has its place, counted in sectors that hold
//! something, and its bytes. So a small input goes deep: what was made by mkfs stands around it.

use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use reveille::store::disk_memory::Sparse;
use reveille::store::image::fuzzing;

const SECTOR: usize = 512;

/// Of each the sectors in which something stands, and the disk.
struct Base {
    disk: Sparse,
    sectors: Vec<u64>,
}

/// Made by `tools/fuzz/images/make`.
const PACKED: [&[u8]; 6] = [
    include_bytes!("../images/ext4.zst"),
    include_bytes!("../images/fat12.zst"),
    include_bytes!("../images/fat32.zst"),
    include_bytes!("../images/ntfs.zst"),
    include_bytes!("../images/xfs4.zst"),
    include_bytes!("../images/xfs5.zst"),
];

fn base(which: usize) -> &'static Base {
    static ALL: [OnceLock<Base>; PACKED.len()] = [const { OnceLock::new() }; PACKED.len()];
    let which = which % PACKED.len();
    ALL[which].get_or_init(|| unpack(PACKED[which]))
}

fn unpack(packed: &[u8]) -> Base {
    let mut reader =
        ruzstd::decoding::StreamingDecoder::new(packed).expect("a packed disk of ours");
    let mut base = Base {
        disk: Sparse::default(),
        sectors: Vec::new(),
    };
    let mut at = 0;
    let mut sector = [0; SECTOR];
    while reader.read_exact(&mut sector).is_ok() {
        // A sector of one byte alone, such as an empty log, is no place where harm leads anywhere.
        if sector.iter().any(|byte| *byte != 0) {
            base.disk.write(at * SECTOR as u64, &sector);
            if sector.iter().any(|byte| *byte != sector[0]) {
                base.sectors.push(at);
            }
        }
        at += 1;
    }
    base.disk.set_len(at * SECTOR as u64);
    base
}

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = harm(&mut u);
}

fn harm(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let base = base(usize::from(u.arbitrary::<u8>()?));
    let mut disk = base.disk.clone();
    while !u.is_empty() {
        let (sector, at, len): (u16, u16, u8) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let number = base.sectors[usize::from(sector) % base.sectors.len()];
        let at = usize::from(at) % SECTOR;
        let len = usize::from(len % 32).min(u.len()).min(SECTOR - at);
        let bytes = u.bytes(len)?;
        if crate::is_replay() {
            eprintln!("sector {number} at {at}: {bytes:02x?}");
        }
        disk.write(number * SECTOR as u64 + at as u64, bytes);
    }
    let began = Instant::now();
    let found = fuzzing::files(base.disk.clone(), disk);
    if crate::is_replay() {
        eprintln!("{found:?}");
    }
    // Where a whole one of this size takes milliseconds, a harmed one does not take many seconds.
    assert!(began.elapsed() < Duration::from_secs(20), "endless");
    match found {
        Ok(found) => assert!(found.looked_at < 2_000_000),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 70_000, "{} bytes of error", text.len());
        }
    }
    Ok(())
}
