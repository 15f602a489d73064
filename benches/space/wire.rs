//! What the benches of space need of an initiator.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::time::Duration;

use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::{Command, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;

use crate::common::TestHead;

const PREFIX: &str = "iqn.2026-11.internal.reveille";

/// An operating system's session of a node.
pub async fn log_in(head: &TestHead, node: &str) -> Initiator {
    let names = (
        format!("{PREFIX}:{node}.initiator"),
        format!("{PREFIX}:{node}"),
    );
    let offer = Offer {
        isid: [0, 2, 0x3d, 0, 0, 1],
        ..Offer::new(&names.0, &names.1)
    };
    Initiator::connect(head.portal.unwrap(), offer)
        .await
        .unwrap()
}

pub fn cdb10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}

/// Writes one 4 KiB block; unit attentions are passed by.
pub async fn write(session: &mut Initiator, block: u32, byte: u8) -> Done {
    loop {
        let data = Transfer::Out(vec![byte; 4096].into());
        let command = Command::new(0, &cdb10(0x2A, block * 8, 8), data);
        let done = session.execute(command).await.unwrap();
        if done.status == 2 && done.sense.get(2) == Some(&6) {
            continue;
        }
        return done;
    }
}

pub async fn flush(session: &mut Initiator) {
    let done = session.read(0, &cdb10(0x35, 0, 0), 0).await.unwrap();
    assert_eq!(done.status, 0, "{:02x?}", done.sense);
}

pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A sparse golden image of 1 GiB with a little in it.
pub fn import_golden(head: &TestHead) {
    use std::os::unix::fs::FileExt;
    let path = head.path("golden.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&[0xA5; 1 << 20], 0).unwrap();
    head.good(&[
        "image",
        "import",
        &path.display().to_string(),
        "--name",
        "golden",
    ]);
}

/// This much of the machine is somebody else's.
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}
