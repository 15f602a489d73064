//! Sessions of a node with our own initiator.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of tests")]

use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::{Command, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use tokio::time::timeout;

use super::{PATIENCE, TestHead};

pub const PREFIX: &str = "iqn.2026-11.internal.reveille";
/// The ISIDs of an operating system and of iPXE, whose login begins a boot.
pub const OS: [u8; 6] = [0x00, 0x02, 0x3d, 0, 0, 1];
pub const FIRMWARE: [u8; 6] = [0x40, 0x00, 0x27, 0x23, 0, 1];

/// Logs in as `node`.
pub async fn connect(head: &TestHead, node: &str, isid: [u8; 6]) -> Initiator {
    let names = [
        format!("{PREFIX}:{node}.initiator"),
        format!("{PREFIX}:{node}"),
    ];
    let offer = Offer {
        isid,
        ..Offer::new(&names[0], &names[1])
    };
    let portal = head.portal.expect("the head runs");
    let login = timeout(PATIENCE, Initiator::connect(portal, offer)).await;
    login.expect("the login hangs").unwrap()
}

/// Logs in as `node`, and hears what waits.
pub async fn log_in(head: &TestHead, node: &str, isid: [u8; 6]) -> Initiator {
    let mut session = connect(head, node, isid).await;
    for _ in 0..8 {
        if run(&mut session, &[0; 6], None, 0).await.status == 0 {
            break;
        }
    }
    session
}

/// Runs one command, with its data-out or for so many bytes of data-in.
pub async fn run(session: &mut Initiator, cdb: &[u8], out: Option<&[u8]>, into: u32) -> Done {
    let done = match out {
        Some(data) => {
            let command = Command::new(0, cdb, Transfer::Out(data.to_vec().into()));
            timeout(PATIENCE, session.execute(command)).await
        }
        None => timeout(PATIENCE, session.read(0, cdb, into)).await,
    };
    done.expect("a command hangs").unwrap()
}

/// Key, code and qualifier of fixed-format sense.
pub fn sense(done: &Done) -> [u8; 3] {
    match done.sense.as_slice() {
        [_, _, key, _, _, _, _, _, _, _, _, _, asc, ascq, ..] => [key & 0xF, *asc, *ascq],
        other => panic!("no sense: {other:02x?}"),
    }
}

/// A CDB of 10 bytes: flags, address, blocks.
pub fn cdb10(opcode: u8, flags: u8, lba: usize, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = u32::try_from(lba).unwrap().to_be_bytes();
    let [hi, lo] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, hi, lo, 0]
}

/// A CDB of 16 bytes: flags, address, blocks.
pub fn cdb16(opcode: u8, flags: u8, lba: usize, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&(lba as u64).to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// READ(10) that must end well.
pub async fn read(session: &mut Initiator, lba: usize, blocks: u16) -> Vec<u8> {
    let into = u32::from(blocks) * 512;
    let done = run(session, &cdb10(0x28, 0, lba, blocks), None, into).await;
    assert_eq!(done.status, 0, "{:02x?}", done.sense);
    done.data
}

/// WRITE(10) that must end well.
pub async fn write(session: &mut Initiator, lba: usize, data: &[u8]) {
    let blocks = u16::try_from(data.len() / 512).unwrap();
    let done = run(session, &cdb10(0x2A, 0, lba, blocks), Some(data), 0).await;
    assert_eq!(done.status, 0, "{:02x?}", done.sense);
}
