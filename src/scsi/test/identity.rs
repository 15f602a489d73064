//! INQUIRY, READ CAPACITY, and what an absent LUN says.

use super::*;

fn inquiry(evpd: u8, page: u8, alloc: u16) -> [u8; 6] {
    let [hi, lo] = alloc.to_be_bytes();
    [0x12, evpd, page, hi, lo, 0]
}

#[test]
fn standard_inquiry_is_a_fixed_disk_of_this_vendor() {
    let data = Bench::new().good(&inquiry(0, 0, 255));
    assert_eq!(data.len(), 96);
    assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 8, 0, 2]);
    assert_eq!(&data[8..36], b"REVEILLEVirtual disk    1   ");
    assert_eq!(data[58..66], [0, 0xA0, 9, 0x60, 4, 0x60, 4, 0xC0]);
}

#[test]
fn allocation_lengths_cut_and_have_16_bits() {
    let mut bench = Bench::new();
    let whole = bench.good(&inquiry(0, 0, 0x01FF));
    assert_eq!(whole.len(), 96);
    for alloc in 0..=260u16 {
        let cut = usize::from(alloc).min(96);
        assert_eq!(bench.good(&inquiry(0, 0, alloc)), whole[..cut]);
    }
}

#[test]
fn a_page_code_needs_evpd_and_cmddt_is_gone() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&inquiry(0, 0x83, 255)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&inquiry(2, 0, 255)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&inquiry(1, 0x81, 255)), ILLEGAL_FIELD);
}

#[test]
fn every_listed_page_is_there_and_the_list_ascends() {
    let mut bench = Bench::new();
    let list = bench.good(&inquiry(1, 0, 255));
    assert_eq!(
        list,
        [
            0, 0, 0, 10, 0, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8F, 0xB0, 0xB1, 0xB2
        ]
    );
    for &page in &list[4..] {
        let data = bench.good(&inquiry(1, page, 0xFFFF));
        assert_eq!(data[..2], [0, page]);
        let len = usize::from(u16::from_be_bytes([data[2], data[3]]));
        assert_eq!(data.len(), len + 4);
        for alloc in 0..260u16 {
            let cut = usize::from(alloc).min(data.len());
            assert_eq!(bench.good(&inquiry(1, page, alloc)), data[..cut]);
        }
    }
    for page in 0..=255u8 {
        if !list[4..].contains(&page) {
            assert_eq!(bench.bad(&inquiry(1, page, 255)), ILLEGAL_FIELD);
        }
    }
}

#[test]
fn serial_number_is_printable_and_bounded() {
    let mut bench = Bench::with(LuConfig {
        serial: "ab\0c\u{e9}d".repeat(20),
        ..config()
    });
    let data = bench.good(&inquiry(1, 0x80, 255));
    assert_eq!(data.len(), 40);
    assert_eq!(&data[4..12], b"abcdabcd");
}

/// The designators of page 83h: (code set and protocol, association and type, value).
fn designators(page: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = &page[4..];
    let mut all = Vec::new();
    while let [set, kind, 0, len, tail @ ..] = rest {
        let (value, next) = tail.split_at(usize::from(*len));
        all.push((*set, *kind, value.to_vec()));
        rest = next;
    }
    assert!(rest.is_empty());
    all
}

#[test]
fn device_identification_names_unit_port_and_target() {
    let page = Bench::new().good(&inquiry(1, 0x83, 0xFFFF));
    let all = designators(&page);
    let kinds: Vec<_> = all.iter().map(|(set, kind, _)| (*set, *kind)).collect();
    assert_eq!(
        kinds,
        [
            (1, 3),
            (2, 1),
            (3, 8),
            (0x51, 0x94),
            (0x51, 0x95),
            (0x53, 0x98),
            (0x53, 0xA8)
        ]
    );
    assert_eq!(all[0].2, config().naa);
    assert_eq!(all[1].2, b"REVEILLEVirtual disk 0123456789abcdef0123");
    assert_eq!(all[2].2, b"naa.625a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\0\0\0\0");
    assert!(
        all[5]
            .2
            .starts_with(b"iqn.2026-11.internal.reveille:node001,t,0x0001\0")
    );
    assert!(
        all[6]
            .2
            .starts_with(b"iqn.2026-11.internal.reveille:node001\0")
    );
    for (set, _, value) in &all {
        assert!(set & 0xF != 3 || value.len().is_multiple_of(4));
    }
}

#[test]
fn the_longest_target_name_still_fits_its_designator() {
    let target_name = format!("iqn.{}", "x".repeat(300));
    let mut bench = Bench::with(LuConfig {
        target_name,
        ..config()
    });
    let all = designators(&bench.good(&inquiry(1, 0x83, 0xFFFF)));
    assert_eq!(all.len(), 7);
    assert_eq!(all[5].2.len(), 236);
}

#[test]
fn all_mode_pages_are_shared_by_all_initiators() {
    let data = Bench::new().good(&inquiry(1, 0x87, 255));
    assert_eq!(data, [0, 0x87, 0, 4, 0x3F, 0xFF, 0, 0]);
}

#[test]
fn there_is_one_target_port_with_the_name_of_its_portal_group() {
    let data = Bench::new().good(&inquiry(1, 0x88, 0xFFFF));
    let name = b"iqn.2026-11.internal.reveille:node001,t,0x0001\0\0";
    assert_eq!(name.len() % 4, 0);
    let len = u8::try_from(name.len()).unwrap();
    assert_eq!(data[..4], [0, 0x88, 0, 12 + 4 + len]);
    assert_eq!(data[4..16], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4 + len]);
    assert_eq!(data[16..20], [0x53, 0x98, 0, len]);
    assert_eq!(&data[20..], name);
}

#[test]
fn extended_inquiry_tells_of_the_write_cache() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&inquiry(1, 0x86, 255))[..8],
        [0, 0x86, 0, 0x3C, 0, 7, 1, 0]
    );
    let mut bench = Bench::with(LuConfig {
        write_back: false,
        ..config()
    });
    assert_eq!(bench.good(&inquiry(1, 0x86, 255))[6], 0);
}

#[test]
fn block_limits_say_what_is_accepted() {
    let data = Bench::new().good(&inquiry(1, 0xB0, 255));
    let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!(data.len(), 64);
    assert_eq!(data[4..8], [0, 255, 0, 8]);
    assert_eq!(word(8), 8192);
    assert_eq!(word(12), 0);
    assert_eq!((word(20), word(24)), (1_048_576, 256));
    assert_eq!((word(28), word(32)), (8, 0x8000_0000));
    assert_eq!((word(36), word(40)), (0, 2_097_152));
    assert_eq!(word(44), 256);
    assert_eq!(data[48..], [0; 16]);
}

#[test]
fn provisioning_pages_and_capacity_agree() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&inquiry(1, 0xB2, 255)),
        [0, 0xB2, 0, 4, 11, 0xE4, 2, 0]
    );
    assert_eq!(
        bench.good(&inquiry(1, 0xB1, 255))[..6],
        [0, 0xB1, 0, 0x3C, 0, 1]
    );
    let data = bench.good(&cdb16(0x9E, 0x10, 0, 255));
    assert_eq!(data[14], 0xC0);
}

#[test]
fn read_capacity_gives_the_last_block_and_512e() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&cdb10(0x25, 0, 0, 0)),
        [0, 0, 7, 0xFF, 0, 0, 2, 0]
    );
    let data = bench.good(&cdb16(0x9E, 0x10, 0, 255));
    assert_eq!(data.len(), 32);
    assert_eq!(
        data[..16],
        [0, 0, 0, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0]
    );
    assert_eq!(data[16..], [0; 16]);
    for alloc in 0..40u8 {
        let cut = usize::from(alloc).min(32);
        assert_eq!(bench.good(&cdb16(0x9E, 0x10, 0, alloc.into())), data[..cut]);
    }
}

#[test]
fn read_capacity_10_hands_large_disks_over_to_16() {
    for (blocks, answer) in [
        (1u64 << 32, u32::MAX),
        ((1 << 32) - 1, 0xFFFF_FFFE),
        (1 << 33, u32::MAX),
    ] {
        let mut bench = Bench::with(LuConfig {
            size_bytes: blocks * 512,
            ..config()
        });
        assert_eq!(bench.good(&cdb10(0x25, 0, 0, 0))[..4], answer.to_be_bytes());
        assert_eq!(
            bench.good(&cdb16(0x9E, 0x10, 0, 32))[..8],
            (blocks - 1).to_be_bytes()
        );
    }
}

#[test]
fn an_address_needs_pmi() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&cdb10(0x25, 0, 1, 0)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&cdb16(0x9E, 0x10, 1, 32)), ILLEGAL_FIELD);
    let mut pmi = cdb10(0x25, 0, 1, 0);
    pmi[8] = 1;
    bench.good(&pmi);
}

#[test]
fn an_unfinished_last_sector_is_not_served() {
    let mut bench = Bench::with(LuConfig {
        size_bytes: 1023,
        ..config()
    });
    assert_eq!(bench.good(&cdb10(0x25, 0, 0, 0))[..4], [0; 4]);
    assert_eq!(bench.bad(&cdb10(0x28, 0, 1, 1)), OUT_OF_RANGE);
}

#[test]
fn an_absent_lun_says_so() {
    let reply = absent_lun(&inquiry(0, 0, 36), &[0]);
    assert_eq!(
        (reply.status, reply.data[0], reply.data.len()),
        (status::GOOD, 0x7F, 36)
    );
    let luns = absent_lun(&cdb12(0xA0, 0, 0, 64), &[0, 3]);
    assert_eq!(luns.data.len(), 24);
    let sense = absent_lun(&[3, 0, 0, 0, 18, 0], &[0]);
    assert_eq!(
        (sense.status, sense.data[2], sense.data[12]),
        (status::GOOD, 5, 0x25)
    );
    for cdb in [&TEST_READY[..], &cdb10(0x28, 0, 0, 1), &[0xFF], &[]] {
        assert_eq!(code(&absent_lun(cdb, &[0])), (5, 0x25, 0));
    }
    assert_eq!(
        code(&absent_lun(&inquiry(1, 0x83, 36), &[0])),
        ILLEGAL_FIELD
    );
}
