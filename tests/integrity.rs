//! A flipped bit on the medium under a real head: MEDIUM ERROR with the first bad block on the wire, the facts for
//! people, and a repair under the running session.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::unix::fs::FileExt;

use common::session::{self, cdb10, cdb16, run, sense};
use common::{PATIENCE, TestHead};
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::Done;

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
    session::log_in(head, "n1", session::OS).await
}

/// READ(10).
async fn read(session: &mut Initiator, lba: usize, blocks: u16) -> Done {
    let cdb = cdb10(0x28, 0, lba, blocks);
    run(session, &cdb, None, u32::from(blocks) * 512).await
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

/// COMPARE AND WRITE: the blocks stand in one byte.
fn compare_and_write(lba: usize, blocks: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x89, 0, lba, 0);
    cdb[13] = blocks;
    cdb
}

#[tokio::test]
async fn commands_that_compare_or_change_tell_the_bad_block_and_change_nothing() {
    let mut head = head();
    flip(&head);
    head.serve();
    let mut session = log_in(&head).await;
    let (model, first) = (disk(), BAD * CHUNK / 512);
    for (lba, blocks) in [(first - 8, 16), (first + 40, 8), (first + 120, 16)] {
        let (bytes, bad) = (lba * 512..(lba + blocks) * 512, lba.max(first));
        let right = model[bytes].to_vec();
        let wrong = vec![0xEE; right.len()];
        let count = u16::try_from(blocks).unwrap();
        // Whether the bytes that are sent are the right ones cannot be known: no GOOD, and no MISCOMPARE.
        for sent in [&right, &wrong] {
            let swap = [&sent[..], &[0x77; 16 * 512][..sent.len()]].concat();
            let tried: [(&[u8], &[u8]); 6] = [
                (&cdb10(0x2F, 0x02, lba, count), sent),
                (&cdb16(0x8F, 0x02, lba, count.into()), sent),
                (&cdb10(0x2F, 0x06, lba, count), &sent[..512]),
                (&cdb16(0x8F, 0x06, lba, count.into()), &sent[..512]),
                (
                    &compare_and_write(lba, u8::try_from(blocks).unwrap()),
                    &swap,
                ),
                (
                    &cdb16(0x8B, 0, lba, count.into()),
                    &[0xFF; 16 * 512][..sent.len()],
                ),
            ];
            for (at, (cdb, data)) in tried.into_iter().enumerate() {
                // One block compared with all: what lies before the bad one may well differ from it.
                let one_block = cdb[1] == 0x06;
                let done = run(&mut session, cdb, Some(data), 0).await;
                if one_block && lba < first {
                    assert_eq!(done.status, 2, "no GOOD");
                    continue;
                }
                assert!(
                    done.status == 2 && sense(&done)[0] == 3,
                    "{lba} {at}: {:02x?}",
                    done.sense
                );
                assert_medium_error(&done, bad);
            }
        }
        // Without comparing they look at no byte, or only at it.
        let done = run(&mut session, &cdb10(0x2F, 0, lba, count), None, 0).await;
        assert!(
            done.status == 0 || sense(&done)[0] == 3,
            "{:02x?}",
            done.sense
        );
    }
    let shown = head.good(&["layer", "show", "n1", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["data_bytes"], 0, "nothing was written");

    // Beside it they do what they should.
    let (near, right) = (first + 128, &model[(first + 128) * 512..][..8 * 512]);
    let verify = cdb10(0x2F, 0x02, near, 8);
    assert_eq!(run(&mut session, &verify, Some(right), 0).await.status, 0);
    let done = run(&mut session, &verify, Some(&[0xEE; 8 * 512]), 0).await;
    assert_eq!(sense(&done)[0], 0xE, "MISCOMPARE");
    let swap = [right, &[0x77; 8 * 512]].concat();
    let done = run(&mut session, &compare_and_write(near, 8), Some(&swap), 0).await;
    assert_eq!(done.status, 0, "{:02x?}", done.sense);

    // Repaired, all of it is as it was.
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let found = session::read(&mut session, first - 8, 144).await;
    let wanted = [&model[(first - 8) * 512..near * 512], &[0x77; 8 * 512]].concat();
    assert!(found == wanted, "nothing of the refused commands is there");
    head.stop();
}

#[test]
fn what_a_verify_without_a_daemon_finds_is_told_by_the_next_daemon_once() {
    let mut head = head();
    flip(&head);
    let output = head.cli(&["image", "verify", "golden:1"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("golden:1 at byte 1376256"), "{said}");
    head.serve();
    let told = wait_for(&head, &["events"], "BAD chunk 21 of golden:1");
    assert_eq!(told.matches("BAD chunk").count(), 1, "{told}");
    let shown = head.good(&["image", "show", "golden:1"]);
    assert!(shown.contains("chunk 21"), "{shown}");
    assert!(
        head.good(&["metrics"])
            .contains("reveille_image_bad_chunks{image=\"golden:1\"} 1")
    );
    head.stop();
    head.serve();
    assert!(
        head.good(&["image", "show", "golden:1"])
            .contains("chunk 21")
    );
    head.stop();
    let log = head.log();
    assert_eq!(
        log.matches("a chunk of an image is bad").count(),
        1,
        "{log}"
    );
}
