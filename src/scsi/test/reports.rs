//! REPORT LUNS, REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, defects, logs.

use super::super::opcode::COMMANDS;
use super::*;

fn rsoc(options: u8, opcode: u8, action: u16, alloc: u32) -> [u8; 12] {
    let mut cdb = [0xA3, 0x0C, options, opcode, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[4..6].copy_from_slice(&action.to_be_bytes());
    cdb[6..10].copy_from_slice(&alloc.to_be_bytes());
    cdb
}

#[test]
fn luns_are_encoded_and_the_length_is_never_cut() {
    let mut bench = Bench::with(LuConfig {
        luns: vec![0, 7, 255, 256, 16_383],
        ..config()
    });
    let whole = bench.good(&cdb12(0xA0, 0, 0, 4096));
    assert_eq!(whole[..8], [0, 0, 0, 40, 0, 0, 0, 0]);
    let firsts: Vec<_> = whole[8..].chunks(8).map(|lun| [lun[0], lun[1]]).collect();
    assert_eq!(firsts, [[0, 0], [0, 7], [0, 255], [0x41, 0], [0x7F, 0xFF]]);
    for alloc in 16..60u8 {
        let cut = usize::from(alloc).min(whole.len());
        assert_eq!(bench.good(&cdb12(0xA0, 0, 0, alloc.into())), whole[..cut]);
    }
    for alloc in 0..16 {
        assert_eq!(bench.bad(&cdb12(0xA0, 0, 0, alloc)), ILLEGAL_FIELD);
    }
}

#[test]
fn select_report_chooses() {
    let mut bench = Bench::new();
    let mut select = |report: u8| {
        let mut cdb = cdb12(0xA0, 0, 0, 64);
        cdb[2] = report;
        bench.run(A, &cdb, &[])
    };
    assert_eq!(select(0).data.len(), 16);
    assert_eq!(select(1).data.len(), 8);
    assert_eq!(select(2).data.len(), 16);
    assert_eq!(code(&select(3)), ILLEGAL_FIELD);
    assert_eq!(code(&select(0x10)), ILLEGAL_FIELD);
}

#[test]
fn all_operation_codes_are_the_table() {
    let mut bench = with_traits(Traits {
        sanitize: true,
        ..Traits::default()
    });
    for (options, size) in [(0x00, 8), (0x80, 20)] {
        let data = bench.good(&rsoc(options, 0, 0, 65_535));
        let len = u32::from_be_bytes(data[..4].try_into().unwrap());
        assert_eq!(usize::try_from(len).unwrap(), data.len() - 4);
        assert_eq!(data.len() - 4, COMMANDS.len() * size);
        for (entry, command) in data[4..].chunks(size).zip(&COMMANDS) {
            let action = if command.has_action {
                command.action()
            } else {
                0
            };
            let flags = u8::from(command.has_action) | if size == 20 { 2 } else { 0 };
            assert_eq!(
                entry[..8],
                [command.opcode(), 0, 0, action, 0, flags, 0, command.len]
            );
            assert!(size == 8 || entry[8..10] == [0, 0x0A]);
        }
    }
}

#[test]
fn what_is_reported_is_what_is_dispatched() {
    let mut bench = Bench::new();
    for opcode in 0..=255u8 {
        for action in 0..32u8 {
            let data = bench.good(&rsoc(3, opcode, action.into(), 255));
            let supported = data[1] & 7 == 3;
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            cdb[1] = action;
            let unknown = match bench.lu.begin(A, &cdb) {
                Step::Reply(reply) if reply.status == status::CHECK_CONDITION => {
                    code(&reply) == (5, 0x20, 0)
                }
                _ => false,
            };
            if supported {
                assert!(!unknown, "{opcode:02x}/{action:02x}");
                assert_eq!(usize::from(data[3]) + 4, data.len());
                assert_eq!(data[4], opcode);
            } else if action == 0 {
                let plain = bench.run(A, &rsoc(1, opcode, 0, 255), &[]);
                let has_actions = plain.status == status::CHECK_CONDITION;
                assert!(unknown || has_actions, "{opcode:02x}");
            }
        }
    }
}

#[test]
fn one_operation_code_follows_the_service_action_rules() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&rsoc(1, 0x28, 0, 255)),
        [
            0, 3, 0, 10, 0x28, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0
        ]
    );
    let timed = bench.good(&rsoc(0x81, 0x28, 0, 255));
    assert_eq!((timed[1], timed.len(), timed[15]), (0x83, 26, 0x0A));
    assert_eq!(
        bench.bad(&rsoc(1, 0x9E, 0x10, 255)),
        ILLEGAL_FIELD,
        "needs a service action"
    );
    assert_eq!(
        bench.bad(&rsoc(2, 0x28, 0, 255)),
        ILLEGAL_FIELD,
        "has no service action"
    );
    assert_eq!(bench.good(&rsoc(2, 0x9E, 0x10, 255))[1], 3);
    assert_eq!(bench.good(&rsoc(2, 0x9E, 0x11, 255)), [0, 1, 0, 0]);
    for options in [1, 2, 3] {
        assert_eq!(
            bench.good(&rsoc(options, 0x48, 0, 255)),
            [0, 1, 0, 0],
            "SANITIZE"
        );
    }
    assert_eq!(bench.good(&rsoc(3, 0x28, 1, 255)), [0, 1, 0, 0]);
    assert_eq!(bench.good(&rsoc(3, 0x28, 0, 255))[1], 3);
    for options in 4..8 {
        assert_eq!(bench.bad(&rsoc(options, 0x28, 0, 255)), ILLEGAL_FIELD);
    }
}

#[test]
fn operation_codes_are_cut_at_the_allocation_length() {
    let mut bench = Bench::new();
    let whole = bench.good(&rsoc(0, 0, 0, 65_535));
    for alloc in 0..260usize {
        assert_eq!(
            bench.good(&rsoc(0, 0, 0, alloc.try_into().unwrap())),
            whole[..alloc]
        );
    }
}

#[test]
fn no_target_port_groups() {
    // TPGS=0 in INQUIRY, and the command is refused as an unknown service action.
    let mut bench = Bench::new();
    assert_eq!(
        bench.bad(&[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]),
        ILLEGAL_FIELD
    );
    assert_eq!(bench.good(&rsoc(2, 0xA3, 0x0A, 255)), [0, 1, 0, 0]);
}

#[test]
fn commands_left_out_are_refused_by_opcode() {
    let mut bench = Bench::new();
    for opcode in [
        0x04, 0x07, 0x1C, 0x3B, 0x3C, 0x3E, 0x3F, 0x48, 0x4C, 0x7F, 0x85, 0x9D, 0x9F, 0xA4, 0xC0,
        0xFF,
    ] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        assert_eq!(bench.bad(&cdb), (5, 0x20, 0));
    }
}

#[test]
fn task_management_functions_are_told() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&[0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]),
        [0xDA, 0, 0, 0]
    );
    let long = bench.good(&[0xA3, 0x0D, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!((long.len(), long[3]), (16, 12));
    assert_eq!(
        bench.bad(&[0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]),
        ILLEGAL_FIELD
    );
}

#[test]
fn the_defect_lists_are_empty() {
    let mut bench = Bench::new();
    let mut ten = cdb10(0x37, 0, 0, 255);
    ten[2] = 0x1D;
    assert_eq!(bench.good(&ten), [0, 0x1D, 0, 0]);
    assert_eq!(
        bench.good(&cdb12(0xB7, 0x18, 0, 255)),
        [0, 0x18, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bench.good(&cdb12(0xB7, 0x18, 0, 3)), [0, 0x18, 0]);
}

fn log(page: u8, sub: u8, from: u16, alloc: u8) -> [u8; 10] {
    let [hi, lo] = from.to_be_bytes();
    [0x4D, 0, page, sub, 0, hi, lo, 0, alloc, 0]
}

#[test]
fn the_log_has_its_list_of_pages() {
    let mut bench = Bench::new();
    assert_eq!(bench.good(&log(0x40, 0, 0, 255)), [0, 0, 0, 2, 0, 0x0C]);
    assert_eq!(
        bench.good(&log(0x40, 0xFF, 0, 255)),
        [0x40, 0xFF, 0, 6, 0, 0, 0, 0xFF, 0x0C, 0]
    );
    assert_eq!(bench.bad(&log(0x42, 0, 0, 255)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&log(0x40, 1, 0, 255)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&log(0x4C, 1, 0, 255)), ILLEGAL_FIELD);
    let mut saved = log(0x4C, 0, 0, 255);
    saved[1] = 1;
    assert_eq!(bench.bad(&saved), ILLEGAL_FIELD);
    assert!(bench.ops.is_empty());
}

#[test]
fn the_provisioning_log_counts_in_the_sets_of_the_threshold() {
    let mut bench = Bench::new();
    bench.provision = Provision {
        used_bytes: (2 << 20) + 1,
        available_bytes: (6 << 20) - 1,
        shared: true,
    };
    let available = [0, 1, 3, 8, 0, 0, 0, 5, 2, 0, 0, 0];
    let used = [0, 2, 3, 8, 0, 0, 0, 3, 1, 0, 0, 0];
    let page = [&[0x8C, 0, 0, 24][..], &available, &used].concat();
    assert_eq!(bench.good(&log(0x4C, 0, 0, 255)), page);
    assert_eq!(bench.good(&log(0x4C, 0, 1, 255)), page);
    // Cumulative or current values, whatever is asked for: a list has no others.
    assert_eq!(bench.good(&log(0x0C, 0, 0, 255)), page);
    let rest = [&[0x8C, 0, 0, 12][..], &used].concat();
    assert_eq!(bench.good(&log(0x4C, 0, 2, 255)), rest);
    assert_eq!(bench.bad(&log(0x4C, 0, 3, 255)), ILLEGAL_FIELD);
    for alloc in 0..28_u8 {
        let cut = &page[..usize::from(alloc)];
        assert_eq!(bench.good(&log(0x4C, 0, 0, alloc)), cut);
    }
    // Above the threshold of mode page 1Ch/02h exactly when that many bytes are passed.
    bench.provision.used_bytes = 2 << 20;
    assert_eq!(bench.good(&log(0x4C, 0, 2, 255))[8..12], [0, 0, 0, 2]);
    bench.provision.shared = false;
    bench.provision.available_bytes = u64::MAX;
    let data = bench.good(&log(0x4C, 0, 0, 255));
    assert_eq!((data[8..12].to_vec(), data[12]), (vec![0xFF; 4], 1));
}

#[test]
fn names_and_directions_are_known_to_the_outside() {
    assert_eq!(command_name(&cdb10(0x28, 0, 0, 1)), "READ(10)");
    assert_eq!(command_name(&[0xFF]), "unknown");
    assert_eq!(direction(&cdb10(0x28, 0, 0, 3)), Some(Direction::In(1536)));
    assert_eq!(direction(&cdb16(0x8A, 0, 0, 3)), Some(Direction::Out(1536)));
    assert_eq!(direction(&cdb10(0x41, 0, 0, 3)), Some(Direction::Out(512)));
    assert_eq!(direction(&cdb16(0x93, 1, 0, 3)), Some(Direction::None));
    assert_eq!(direction(&TEST_READY), Some(Direction::None));
    assert_eq!(direction(&[0x12, 0, 0, 1, 2, 0]), Some(Direction::In(258)));
    assert_eq!(direction(&[0xFF]), None);
}
