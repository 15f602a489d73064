//! A flipped bit on the medium under a real head: MEDIUM ERROR with the first bad block on the wire, the facts for
//! people, and a repair under the running session.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::unix::fs::FileExt;

use common::{PATIENCE, TestHead};
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::Done;
use reveille::iscsi::initiator::offer::Offer;

const PREFIX: &str = "iqn.2026-11.internal.reveille";
const CHUNK: usize = 65_536;
const CHUNKS: usize = 40;
const BAD: usize = 21;

fn disk() -> Vec<u8> {
    let mut bytes = vec![0; CHUNKS * CHUNK];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for word in bytes.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    bytes
}

fn head() -> TestHead {
    let head = TestHead::new();
    std::fs::write(head.path("golden.raw"), disk()).unwrap();
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head.good(&[
        "node",
        "add",
        "n1",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:01",
    ]);
    head
}

fn flip(head: &TestHead) {
    let pack = head.path("state/store/images/packs/00000001.pack");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(pack)
        .unwrap();
    let (at, mut byte) = ((BAD * CHUNK + 1000) as u64, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

async fn log_in(head: &TestHead) -> Initiator {
    let offer = Offer::new(&format!("{PREFIX}:n1.initiator"), &format!("{PREFIX}:n1"));
    let portal = head.portal.expect("the head runs");
    let session = tokio::time::timeout(PATIENCE, Initiator::connect(portal, offer));
    let mut session = session.await.expect("the login hangs").unwrap();
    for _ in 0..8 {
        if session.read(0, &[0; 6], 0).await.unwrap().status == 0 {
            break;
        }
    }
    session
}

/// READ(10).
async fn read(session: &mut Initiator, lba: usize, blocks: u16) -> Done {
    let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[2..6].copy_from_slice(&u32::try_from(lba).unwrap().to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    let done = session.read(0, &cdb, u32::from(blocks) * 512);
    tokio::time::timeout(PATIENCE, done)
        .await
        .expect("the read hangs")
        .unwrap()
}

/// MEDIUM ERROR, UNRECOVERED READ ERROR, with this block in the INFORMATION field (SPC-4 4.5.3, fixed format).
fn assert_medium_error(done: &Done, lba: usize) {
    assert_eq!(done.status, 2, "CHECK CONDITION");
    let sense = &done.sense;
    assert_eq!((sense[0], sense[2] & 15), (0xf0, 3), "{sense:02x?}");
    assert_eq!(
        sense[3..7],
        u32::try_from(lba).unwrap().to_be_bytes(),
        "{sense:02x?}"
    );
    assert_eq!((sense[12], sense[13]), (0x11, 0), "{sense:02x?}");
}

#[tokio::test]
async fn a_flipped_bit_is_a_medium_error_with_its_block_a_fact_for_people_and_mended_under_the_session()
 {
    let mut head = head();
    flip(&head);
    head.serve();
    let mut session = log_in(&head).await;
    let first = BAD * CHUNK / 512;
    // Across its beginning, within it, and over its end.
    assert_medium_error(&read(&mut session, first - 8, 16).await, first);
    assert_medium_error(&read(&mut session, first + 40, 8).await, first + 40);
    assert_medium_error(&read(&mut session, first + 120, 16).await, first + 120);
    let model = disk();
    for (lba, blocks) in [(0, 128), (first - 128, 128), (first + 128, 128)] {
        let done = read(&mut session, lba, blocks).await;
        assert_eq!(
            done.status, 0,
            "its neighbours are served: {:02x?}",
            done.sense
        );
        let from = lba * 512;
        assert!(done.data == model[from..from + usize::from(blocks) * 512]);
    }
    for words in [
        vec!["image", "show", "golden:1"],
        vec!["status"],
        vec!["events"],
    ] {
        let said = wait_for(&head, &words, "chunk 21");
        assert!(said.contains("golden:1"), "{said}");
    }
    let shown = head.good(&["image", "show", "golden"]);
    for part in [
        "bytes 1376256 to 1441791",
        "00000001.pack at 1376256",
        "nodes: n1",
        "image import",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let metrics = head.good(&["metrics"]);
    assert!(
        metrics.contains("reveille_image_bad_chunks{image=\"golden:1\"} 1"),
        "{metrics}"
    );
    let told = head.good(&["events"]);
    assert_eq!(told.matches("BAD chunk").count(), 1, "told once: {told}");
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let done = read(&mut session, first, 128).await;
    assert_eq!(done.status, 0, "the running session sees the repair");
    assert!(done.data == model[BAD * CHUNK..(BAD + 1) * CHUNK]);
    wait_for(&head, &["events"], "is good again");
    assert!(!head.good(&["image", "show", "golden"]).contains("damage"));
    head.stop();
}

/// Asks again until the answer has this in it.
fn wait_for(head: &TestHead, words: &[&str], part: &str) -> String {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let said = head.good(words);
        if said.contains(part) {
            return said;
        }
        assert!(
            std::time::Instant::now() < until,
            "{words:?} never says `{part}`: {said}"
        );
    }
}

#[tokio::test]
async fn the_scrub_finds_it_before_a_node_does() {
    let mut head = head();
    flip(&head);
    head.bad(&["image", "scrub", "--now"], 4);
    head.serve();
    let said = head.good(&["image", "scrub", "--now"]);
    assert!(
        said.contains("reading") || said.contains("resting"),
        "{said}"
    );
    wait_for(&head, &["image", "scrub"], "1 chunks bad");
    wait_for(&head, &["events"], "BAD chunk 21 of golden:1");
    assert!(head.good(&["image", "scrub", "--pause"]).contains("paused"));
    head.stop();
    head.serve();
    assert!(
        head.good(&["image", "scrub"]).contains("paused"),
        "over a restart"
    );
    head.good(&["image", "scrub", "--resume"]);
    head.bad(&["image", "scrub", "golden", "--pause"], 2);
    head.stop();
}
