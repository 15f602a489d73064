//! What operating systems ask of a disk when they find it, command by command, with the bytes they need.

use super::reservations::*;
use super::*;

fn inquiry(page: Option<u8>, alloc: u16) -> [u8; 6] {
    let [hi, lo] = alloc.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), hi, lo, 0]
}

/// The designators of page 83h: (code set and protocol, association and type, value).
fn designators(page: &[u8]) -> Vec<(u8, u8, &[u8])> {
    let mut rest = &page[4..];
    let mut all = Vec::new();
    while let [set, kind, 0, len, tail @ ..] = rest {
        let (value, next) = tail.split_at(usize::from(*len));
        all.push((*set, *kind, value));
        rest = next;
    }
    all
}

const NAA: [u8; 16] = {
    let mut naa = [0x5A; 16];
    naa[0] = 0x62;
    naa
};

/// READ CAPACITY(16) of 2,048 blocks, 512e, thin, zeros where nothing is.
fn capacity_16() -> Vec<u8> {
    let mut data = vec![0, 0, 0, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0];
    data.resize(32, 0);
    data
}

/// Setup and the boot driver: without NAA setup stops with 0xF4, WinPE wants a SCSI name string, and
/// partitions are only made on a fixed disk.
#[test]
fn windows_setup_probe() {
    let mut bench = Bench::new();
    bench.good(&TEST_READY);
    let standard = bench.good(&inquiry(None, 36));
    assert_eq!(
        standard,
        b"\0\0\x06\x12\x5B\x08\0\x02REVEILLEVirtual disk    1   "
    );
    assert_eq!(
        bench.good(&cdb12(0xA0, 0, 0, 4096)),
        [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    let pages = bench.good(&inquiry(Some(0), 255));
    assert_eq!(
        pages[4..],
        [0, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8F, 0xB0, 0xB1, 0xB2]
    );
    assert_eq!(
        bench.good(&inquiry(Some(0x80), 255)),
        b"\0\x80\0\x140123456789abcdef0123"
    );
    let page = bench.good(&inquiry(Some(0x83), 255));
    let all = designators(&page);
    assert_eq!(
        all[0],
        (0x01, 0x03, &NAA[..]),
        "NAA of the unit comes first"
    );
    assert_eq!(
        all[2],
        (
            0x03,
            0x08,
            &b"naa.625a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\0\0\0\0"[..]
        )
    );
    let named = all
        .iter()
        .filter(|(set, kind, _)| (*set, *kind) == (0x53, 0xA8));
    assert_eq!(named.count(), 1, "the target's own name");
    assert_eq!(
        bench.good(&cdb10(0x25, 0, 0, 0)),
        [0, 0, 7, 0xFF, 0, 0, 2, 0]
    );
    assert_eq!(bench.good(&cdb16(0x9E, 0x10, 0, 32)), capacity_16());
    // Writable, DPO and FUA; a cache that can be flushed.
    let modes = bench.good(&[0x1A, 0, 0x3F, 0, 192, 0]);
    assert_eq!((modes[2], modes[3]), (0x10, 8));
    let caching = bench.good(&[0x1A, 8, 0x08, 0, 192, 0]);
    assert_eq!(caching[4..7], [0x08, 18, 0x04]);
    let exceptions = bench.good(&[0x1A, 8, 0x1C, 0, 192, 0]);
    assert_eq!(exceptions[4..7], [0x1C, 10, 0x08]);
    assert_eq!(bench.bad(&[0x1A, 8, 0x00, 0, 192, 0]), ILLEGAL_FIELD);
    let limits = bench.good(&inquiry(Some(0xB0), 255));
    assert_eq!((limits.len(), &limits[..4]), (64, &[0, 0xB0, 0, 0x3C][..]));
    assert_eq!(
        limits[20..32],
        [0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8],
        "UNMAP, in physical blocks"
    );
    assert_eq!(
        bench.good(&inquiry(Some(0xB1), 255))[..6],
        [0, 0xB1, 0, 0x3C, 0, 1]
    );
    assert_eq!(
        bench.good(&inquiry(Some(0xB2), 255)),
        [0, 0xB2, 0, 4, 11, 0xE4, 2, 0]
    );
    // The log of NTFS with FUA, a flush, and at shutdown a stop that the next boot must not notice.
    bench.good_out(&cdb10(0x2A, 0x08, 8, 1), &[7; 512]);
    assert!(matches!(bench.last_op(), BlockOp::Write { fua: true, .. }));
    bench.good(&cdb10(0x35, 0, 0, 0));
    bench.good(&[0x1B, 0, 0, 0, 0, 0]);
    assert_eq!(bench.good(&cdb10(0x28, 0, 8, 1)), [7; 512]);
    // A failover cluster: every node registers, one reserves with type 5.
    assert_eq!(
        bench.good(&[0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0])[4] & 0x28,
        0x28
    );
    bench.pr_good(A, REGISTER_IGNORE, 0, 0, 1);
    bench.pr_good(A, RESERVE, 5, 1, 0);
    assert_eq!(bench.reservation(), Some((1, 5)));
}

#[test]
fn esxi_probe() {
    let mut bench = Bench::new();
    let luns = bench.good(&cdb12(0xA0, 0, 0, 8192));
    assert_eq!(
        (luns.len(), luns[3]),
        (16, 8),
        "parsed strictly: LUN 0 and nothing else"
    );
    let standard = bench.good(&inquiry(None, 255));
    assert_eq!(
        (standard.len(), standard[5] & 0x30),
        (96, 0),
        "TPGS: no groups to ask for"
    );
    let pages = bench.good(&inquiry(Some(0), 255));
    for page in [0x80, 0x83, 0x86, 0xB0, 0xB2] {
        assert!(pages[4..].contains(&page), "{page:02x} is listed");
        assert_eq!(bench.good(&inquiry(Some(page), 255))[1], page);
    }
    let identity = bench.good(&inquiry(Some(0x83), 255));
    assert_eq!(designators(&identity)[0], (0x01, 0x03, &NAA[..]));
    let extended = bench.good(&inquiry(Some(0x86), 255));
    assert_eq!((extended.len(), &extended[4..7]), (64, &[0, 7, 1][..]));
    bench.good(&TEST_READY);
    assert_eq!(bench.good(&cdb16(0x9E, 0x10, 0, 32)), capacity_16());
    assert_eq!(bench.good(&cdb10(0x25, 0, 0, 0))[4..], [0, 0, 2, 0]);
    // DBD=0: the block descriptor tells blocks and their true length.
    let modes = bench.good(&[0x1A, 0, 0x3F, 0, 255, 0]);
    assert_eq!(modes[3..12], [8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let groups = bench.run(A, &cdb12(0xA3, 0x0A, 0, 255), &[]);
    assert_eq!(code(&groups), ILLEGAL_FIELD);
    assert_eq!(
        groups.sense.unwrap().as_slice()[15..18],
        [0xCC, 0, 1],
        "the service action"
    );
    let knows = |bench: &mut Bench, opcode: u8| {
        let ask = [0xA3, 0x0C, 1, opcode, 0, 0, 0, 0, 1, 0, 0, 0];
        bench.good(&ask)[1] & 7 == 3
    };
    for opcode in [0x89, 0x42, 0x93, 0x16, 0x17] {
        assert!(knows(&mut bench, opcode), "{opcode:02x}");
    }
    // ATS: the heartbeat of VMFS. A slot is taken once.
    let mut slot = [0; 1024];
    slot[512..].fill(9);
    bench.good_out(&cdb16(0x89, 0, 0, 0).with(13, 1), &slot);
    let taken = bench.run(B, &cdb16(0x89, 0, 0, 0).with(13, 1), &slot);
    assert_eq!(code(&taken), (0xE, 0x1D, 0));
    // And before ATS: reserve, work, release. Another host waits.
    bench.good(&[0x16, 0, 0, 0, 0, 0]);
    assert!(bench.conflicts(B, &cdb10(0x28, 0, 0, 1), &[]));
    bench.good(&[0x17, 0, 0, 0, 0, 0]);
    assert!(!bench.conflicts(B, &cdb10(0x28, 0, 0, 1), &[]));
}

trait With {
    fn with(self, at: usize, byte: u8) -> Self;
}

impl With for [u8; 16] {
    fn with(mut self, at: usize, byte: u8) -> Self {
        self[at] = byte;
        self
    }
}

/// The kernel's scan, udev and multipathd on two sessions of one host; then mpathpersist over both.
#[test]
fn linux_multipath_probe() {
    let mut bench = Bench::new();
    let (one, two) = (NexusId(21), NexusId(22));
    let host = "iqn.2026-11.test:host";
    bench.lu.attach(one, &format!("{host},i,0x00023d000001"));
    bench.lu.attach(two, &format!("{host},i,0x00023d000002"));
    let mut scans = Vec::new();
    for path in [one, two] {
        let mut seen = Vec::new();
        let mut ask = |cdb: &[u8]| {
            let reply = bench.run(path, cdb, &[]);
            assert_eq!(reply.status, status::GOOD, "{cdb:02x?}");
            seen.push(reply.data.clone());
            reply.data
        };
        let short = ask(&inquiry(None, 36));
        assert_eq!(ask(&inquiry(None, u16::from(short[4]) + 5)).len(), 96);
        ask(&cdb12(0xA0, 0, 0, 4096));
        for page in ask(&inquiry(Some(0), 255))[4..].to_vec() {
            assert_eq!(
                ask(&inquiry(Some(page), 255))[1],
                page,
                "Linux rejects another page"
            );
        }
        ask(&TEST_READY);
        assert_eq!(ask(&cdb16(0x9E, 0x10, 0, 32)), capacity_16());
        for (page, alloc) in [(0x3F, 192), (0x08, 192), (0x0A, 128)] {
            ask(&[0x1A, 8, page, 0, alloc, 0]);
        }
        for opcode in [0x41, 0x93] {
            assert_eq!(
                ask(&[0xA3, 0x0C, 1, opcode, 0, 0, 0, 0, 2, 0, 0, 0])[1] & 7,
                3
            );
        }
        // TPGS=0: multipathd takes the path without groups; asked all the same, it hears a clean no.
        let groups = bench.run(path, &cdb12(0xA3, 0x0A, 0, 255), &[]);
        assert_eq!(code(&groups), ILLEGAL_FIELD);
        scans.push(seen);
    }
    assert_eq!(
        scans[0], scans[1],
        "one disk, one WWID, through whatever portal"
    );
    let key = 0x0123_4567_89AB_CDEF;
    for path in [one, two] {
        bench.pr_good(path, REGISTER_IGNORE, 0, 0, key);
    }
    bench.pr_good(one, RESERVE, 5, key, 0);
    assert_eq!(bench.keys(), (2, vec![key, key]));
    // The path that reserved goes; the other one writes on, a stranger does not.
    bench.lu.detach(one);
    let write = cdb10(0x2A, 0, 0, 1);
    assert!(!bench.conflicts(two, &write, &[1; 512]));
    assert!(bench.conflicts(C, &write, &[1; 512]));
    // Another host takes over: it must reach both paths with one PREEMPT AND ABORT.
    bench.pr_good(B, REGISTER, 0, 0, 2);
    let reply = bench.pr(B, PREEMPT_ABORT, 5, 2, key);
    assert_eq!((reply.status, reply.abort), (status::GOOD, vec![two]));
    assert_eq!(bench.keys().1, [2]);
    assert_eq!(bench.reservation(), Some((2, 5)));
    assert_eq!(bench.attention(two), Some((0x2A, 5)));
    assert!(bench.conflicts(two, &write, &[1; 512]));
}
