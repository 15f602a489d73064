//! Random valid files against their model, and random damage: never a panic, never an endless read, never a
//! disk of another size than was said.

use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;
use reveille::store::image::ExtentKind;

use super::{Files, check_anywhere, content, disk, open, tool};
use crate::build::{Block, MIB, Plan, put};

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        Just(Block::Absent),
        Just(Block::Full),
        any::<u64>().prop_map(Block::Some),
        Just(Block::Zero),
    ]
}

/// A plan of some blocks of `1 << bits` bytes; its size ends anywhere in the last block.
fn plan(seed: &'static str, bits: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Plan> {
    let blocks = prop::collection::vec(block(), 1..6);
    (blocks, bits, any::<prop::sample::Index>()).prop_map(move |(blocks, bits, cut)| {
        let block = 1_usize << bits;
        let last = (cut.index(block / 4096) + 1) * 4096;
        let size = (blocks.len() - 1) * block + last;
        Plan::new(seed, size, block, blocks)
    })
}

/// Without a parent there are no differences, and a VHD has no blocks of zeros.
fn alone(plan: &Plan, zero: bool) -> Plan {
    let blocks = plan.blocks.iter().map(|block| match block {
        Block::Some(_) => Block::Full,
        Block::Zero if !zero => Block::Absent,
        other => other.clone(),
    });
    Plan {
        blocks: blocks.collect(),
        ..plan.clone()
    }
}

fn no_zeros(plan: &Plan) -> Plan {
    let blocks = plan.blocks.iter().map(|block| match block {
        Block::Zero => Block::Absent,
        other => other.clone(),
    });
    Plan {
        blocks: blocks.collect(),
        ..plan.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn random_chains_of_vhd_equal_their_model(
        base in plan("base", 12..=18),
        middle in plan("middle", 12..=18),
        top in plan("top", 12..=18),
    ) {
        let files = Files::new();
        let base = alone(&base, false);
        let middle = no_zeros(&middle).over(&base, &[("W2ru", "base.vhd")]);
        let top = no_zeros(&top).over(&middle, &[("W2ku", "D:\\middle.vhd")]);
        files.write("base.vhd", &base.vhd());
        files.write("middle.vhd", &middle.vhd());
        let path = files.write("top.vhd", &top.vhd());
        let model = top.model(&middle.model(&base.model(&[])));
        prop_assert!(content(&path).unwrap() == model);
        check_anywhere(&mut *open(&path).unwrap(), &model);
    }

    #[test]
    fn random_chains_of_vhdx_equal_their_model(
        base in plan("base", 20..=21),
        top in plan("top", 20..=22),
        large in any::<bool>(),
    ) {
        let files = Files::new();
        let sector = if large { 4096 } else { 512 };
        let base = Plan { sector, ..alone(&base, true) };
        let top = Plan { sector, ..top }.over(&base, &[("relative_path", "base.vhdx")]);
        files.write("base.vhdx", &base.vhdx());
        let path = files.write("top.vhdx", &top.vhdx());
        let model = top.model(&base.model(&[]));
        prop_assert!(content(&path).unwrap() == model);
        check_anywhere(&mut *open(&path).unwrap(), &model);
    }
}

/// Good files of every kind, small ones.
fn samples() -> &'static Vec<(&'static str, Vec<u8>)> {
    static SAMPLES: OnceLock<Vec<(&'static str, Vec<u8>)>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let files = Files::new();
        let raw = files.write("raw", &disk()[..2 * MIB]);
        let made = |format: &str, options: &str| {
            let path = files.path("made");
            tool(
                "qemu-img",
                &["convert", "-f", "raw", "-O", format, "-o", options],
                &[&raw, &path],
            );
            fs::read(&path).unwrap()
        };
        let small = Plan::new("s", 8 * 4096, 4096, vec![Block::Full; 8]);
        vec![
            ("vhd", small.vhd()),
            ("vhd", made("vpc", "subformat=fixed")),
            ("vhdx", made("vhdx", "subformat=dynamic,block_size=1M")),
            ("vmdk", made("vmdk", "subformat=monolithicSparse")),
            ("vmdk", made("vmdk", "subformat=streamOptimized")),
            ("qcow2", made("qcow2", "compat=1.1")),
            ("gz", tool("gzip", &["-c"], &[&raw])),
            ("xz", tool("xz", &["-c"], &[&raw])),
            ("zst", tool("zstd", &["-q", "-c"], &[&raw])),
        ]
    })
}

/// Places where headers and tables are, more often than elsewhere.
fn place(len: usize) -> impl Strategy<Value = usize> {
    let near = [
        0,
        64 << 10,
        128 << 10,
        192 << 10,
        2 << 20,
        3 << 20,
        len.saturating_sub(1024),
    ];
    let near = prop::sample::select(near.into_iter().filter(|at| *at < len).collect::<Vec<_>>());
    prop_oneof![
        3 => (near, 0_usize..2048).prop_map(move |(at, more)| (at + more).min(len - 1)),
        1 => 0..len,
    ]
}

/// A sample, bytes to put at places of it, where to cut it.
type Damage = (usize, Vec<(usize, Vec<u8>)>, Option<usize>);

fn damage() -> impl Strategy<Value = Damage> {
    (0..samples().len()).prop_flat_map(|nth| {
        let len = samples()[nth].1.len();
        let value = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..8),
            Just(vec![0xff; 8]),
            Just(vec![0; 8]),
            Just((1_u64 << 63).to_le_bytes().to_vec()),
        ];
        let changes = prop::collection::vec((place(len), value), 1..5);
        (Just(nth), changes, prop::option::weighted(0.3, 0..len))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(250) })]

    #[test]
    fn random_damage_is_refused_or_read_but_never_worse((nth, changes, cut) in damage()) {
        let (name, good) = &samples()[nth];
        let mut bytes = good.clone();
        for (at, value) in changes {
            let len = value.len().min(bytes.len() - at);
            put(&mut bytes, at, &value[..len]);
        }
        // Many damages are to checked parts: mended, so that what is behind the checksums is reached.
        if bytes.len() > 2 << 20 && *name == "vhdx" {
            for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10)] {
                crate::build::mend_vhdx(&mut bytes[at..at + len]);
            }
        }
        if *name == "vhd" {
            let last = bytes.len() - 512;
            crate::build::mend_vhd_footer(&mut bytes[..512]);
            crate::build::mend_vhd_footer(&mut bytes[last..]);
            crate::build::mend_vhd_header(&mut bytes[512..1536]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.max(1));
        }
        let files = Files::new();
        let path = files.write("damaged", &bytes);
        let mut source = match open(&path) {
            Ok(source) => source,
            Err(e) => {
                let text = e.to_string();
                prop_assert!(text.len() < 4000 && !text.chars().any(char::is_control), "{text:?}");
                return Ok(());
            }
        };
        let (mut at, size) = (0, source.size());
        prop_assert!(size > 0 && size % 512 == 0 && size <= 1 << 44);
        for _ in 0..2000 {
            if at >= size {
                break;
            }
            let Ok(extent) = source.next_extent(at) else { break };
            prop_assert!(extent.range.offset() <= at && at < extent.range.end());
            if extent.kind == ExtentKind::Data {
                let len = (extent.range.end().min(size) - at).min(1 << 20);
                let _ = source.read_at(at, &mut vec![0; len as usize]);
            }
            at = extent.range.end();
        }
    }
}
