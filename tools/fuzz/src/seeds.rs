//! Writes the seeds: `tools/fuzz/run --seeds`. Each is a conversation or file that reaches deep at once: logins
//! of real initiators (from their profiles), what broke other targets, whole boots, small good files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use reveille::iscsi::chap::Algorithms;
use reveille::iscsi::initiator::offer::{Client, Next, Offer};
use reveille::iscsi::initiator::profiles::{PROFILES, Profile};
use reveille::iscsi::login::{Access, Credentials, Event, Login, Options, Output};
use reveille::iscsi::params::Digests;

/// What one target gets.
struct Place(PathBuf);

impl Place {
    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).expect("the directory of the seeds can be written");
    }
}

pub(crate) fn run(_: &[u8]) {
    let top = std::env::var_os("REVEILLE_SEEDS")
        .expect("REVEILLE_SEEDS names the directory of the seeds");
    let place = |target: &str| {
        let dir = Path::new(&top).join(target);
        fs::create_dir_all(&dir).expect("the directory of the seeds can be made");
        Place(dir)
    };
    logins(&place("login"));
    login_abuse(&place("login"));
    clients(&place("client"));
    texts(&place("text"));
    pdus(&place("pdu"));
    scsi(&place("scsi"));
    reservations(&place("scsi"));
    connections(&place("connection"));
    boots(&place("dhcp"));
    transfers(&place("tftp"));
    for (name, target) in [
        ("who", "/boot"),
        ("boot", "/boot?mac=52:54:00:77:00:01&arch=bios"),
        ("stranger", "/boot?mac=52-54-00-77-00-09&arch=efi-x86_64"),
        ("loader", "/loader/ipxe.efi"),
        ("ready", "/ready?mac=525400770001"),
        ("escape", "/loader/..%2f..%2fetc%2fpasswd"),
        ("odd", "/boot?mac=%00&mac=%ff&arch=%0aexit"),
    ] {
        place("http").put(name, &[&[2], target.as_bytes()].concat());
    }
    for (name, kind, text) in [
        ("range", 0, "node[001-100]!node[010-019],r[1-4]n[1-24/4]"),
        ("group", 0, "@all&@few^n2"),
        ("huge", 0, "a[0-999999999999999999]"),
        ("product", 0, "a[1-99]b[1-99]c[1-99]"),
        ("mac", 1, "52:54:00:12:34:56"),
        ("cisco", 1, "5254.0012.3456"),
        ("label", 2, "rack3-n04.lab"),
    ] {
        place("names").put(name, &[&[kind], text.as_bytes()].concat());
    }
    disks(&place("disk"));
    stores(&place("store"));
    file_systems(&place("files"));
    catalog_texts(&place("catalog_text"));
}

/// A login request of the target `login`: flags, then texts.
fn request(flags: u8, texts: &[&str]) -> Vec<u8> {
    let mut out = vec![flags, u8::try_from(texts.len()).expect("few keys")];
    for text in texts {
        match *text {
            "NAMES" => out.push(0xfe),
            "RIGHT" => out.push(0xf0),
            "MUTUAL" => out.push(0xf7),
            text => {
                out.extend_from_slice(&[0xe0, u8::try_from(text.len()).expect("a short text")]);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
    out
}

fn operational(profile: &Profile) -> Vec<String> {
    let keys = profile.keys.iter();
    keys.map(|(key, value)| format!("{key}={value}")).collect()
}

fn logins(place: &Place) {
    for profile in PROFILES {
        let keys = operational(profile);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let name = profile.name.to_lowercase();
        let early = if profile.transit_always { 0x81 } else { 0 };
        let open = if profile.security_always {
            [
                request(0x81, &["NAMES", "AuthMethod=None"]),
                request(0x87, &keys),
            ]
            .concat()
        } else {
            request(0x87, &[&["NAMES"], keys.as_slice()].concat())
        };
        place.put(&name, &[&[0x80, 0, 0], open.as_slice()].concat());
        let algorithms = format!("CHAP_A={}", profile.chap_algorithms);
        let method = format!("AuthMethod={}", profile.auth_method);
        for (kind, knows, proof) in [
            ("chap", 0x81, "RIGHT"),
            ("mutual", 0x82, "MUTUAL"),
            ("wrong", 1, "RIGHT"),
        ] {
            let chap = [
                vec![knows, 3, 0],
                request(early, &["NAMES", &method]),
                request(early, &[&algorithms]),
                request(0x81, &[proof]),
                request(0x87, &keys),
            ];
            place.put(&format!("{name}-{kind}"), &chap.concat());
            let policy = [vec![knows, 3, 0xe5], chap[1..].concat()].concat();
            place.put(&format!("{name}-{kind}-policy"), &policy);
        }
    }
}

fn login_abuse(place: &Place) {
    let long = "k".repeat(64) + "=1";
    let texts = [
        "novalue",
        "=x",
        "X-a=1\0X-a=1",
        "MaxBurstLength=0",
        "MaxBurstLength=-1",
        "MaxBurstLength=4294967808",
        "MaxBurstLength=0x",
        "MaxBurstLength=1e3",
        "MaxBurstLength= 512",
        "SendTargets=All",
        "TargetAddress=1.2.3.4",
        "InitiatorName=iqn.a/../../etc",
        &long,
    ];
    for (number, text) in texts.iter().enumerate() {
        let bytes = [vec![0x80, 0, 0], request(0x87, &["NAMES", text])].concat();
        place.put(&format!("text-{number:02}"), &bytes);
    }
    // Stages that are not there, jumps over CHAP, pieces without an end.
    for flags in [0x82, 0x8c, 0x8f, 0x83, 0x85, 0x87, 0x84, 0xc1, 0x40] {
        let one = request(flags, &["NAMES", "AuthMethod=CHAP"]);
        place.put(
            &format!("stage-{flags:02x}"),
            &[vec![1, 0, 0], one.repeat(3)].concat(),
        );
    }
    let begin = [vec![1, 0, 0], request(0, &["NAMES", "AuthMethod=CHAP"])].concat();
    // Requests without a key in the middle of CHAP, with T and without, as iPXE may send them.
    let pauses = [
        request(0, &["CHAP_A=5"]),
        request(0, &[]),
        request(0x81, &[]),
        request(0x81, &["RIGHT"]),
    ];
    place.put("chap-pauses", &[begin.clone(), pauses.concat()].concat());
    let response = "CHAP_R=0x00112233445566778899aabbccddeeff";
    for (number, texts) in [
        vec![response],
        vec!["CHAP_N=node1", response],
        vec!["CHAP_A=56"],
        vec!["CHAP_A="],
        vec!["CHAP_A=999"],
        vec!["CHAP_A=5", "CHAP_N=node1", response],
        vec!["CHAP_A=5", "CHAP_A=7"],
    ]
    .iter()
    .enumerate()
    {
        let next = request(0x81, texts);
        place.put(
            &format!("chap-{number}"),
            &[begin.clone(), next.clone(), next].concat(),
        );
    }
}

/// What our own target answers to each initiator: without CHAP, with it, and with both sides proving themselves.
fn clients(place: &Place) {
    for (number, profile) in PROFILES.iter().enumerate() {
        for (kind, bits) in [("", 0), ("-chap", 8), ("-mutual", 24)] {
            let first = u8::try_from(number).expect("few") | bits;
            let seed = answers(profile, first);
            place.put(&format!("{}{kind}", profile.name.to_lowercase()), &seed);
        }
    }
}

fn credentials(user: &str, secret: &[u8]) -> Credentials {
    Credentials {
        user: user.into(),
        secret: secret.into(),
    }
}

fn answers(profile: &Profile, first: u8) -> Vec<u8> {
    let ours = (first & 8 != 0).then(|| credentials("node1", b"sixteen-letters!"));
    let mutual = (first & 16 != 0).then(|| credentials("head", b"other-sixteen-ls"));
    let mut login = Login::new(Options {
        portal_group: 1,
        first_stat_sn: 0,
        entropy: [7; 64],
        algorithms: Algorithms::default(),
        digests: Digests::default(),
        accepted: Instant::now(),
    });
    let mut offer = Offer::new("iqn.a:node1", "iqn.a:target");
    offer.profile = *profile;
    offer.chap.clone_from(&ours);
    offer.mutual.clone_from(&mutual);
    let mut client = Client::new(offer);
    let (mut bhs, mut data) = client.start();
    let mut seed = vec![first];
    loop {
        login.apply(Event::Request(&bhs, &data));
        while let Some(output) = login.poll() {
            match output {
                Output::Ask(_) => login.apply(Event::Access(Access::Allow {
                    chap: ours.clone(),
                    mutual: mutual.clone(),
                })),
                Output::Enter(_) => login.apply(Event::Entered { tsih: 1 }),
                Output::Send(answer, text) => {
                    let len = u16::try_from(text.len()).expect("a short answer");
                    seed.extend_from_slice(&[u8::from(answer.u16_at(14) != 0), answer.flags()]);
                    seed.extend_from_slice(&len.to_le_bytes());
                    seed.extend_from_slice(&text);
                    match client.answer(&answer, &text) {
                        Ok(Next::Send(next, more)) => (bhs, data) = (next, more),
                        _ => return seed,
                    }
                }
                Output::Finished | Output::Close(_) => {}
            }
        }
    }
}

fn texts(place: &Place) {
    for profile in PROFILES {
        let text = operational(profile).join("\0");
        place.put(
            &profile.name.to_lowercase(),
            &[&[0], text.as_bytes()].concat(),
        );
    }
    for (kind, policy) in [("offered", 0), ("none", 5), ("crc32c", 10)] {
        let text = b"HeaderDigest=CRC32C,None\0DataDigest=None,CRC32C\0";
        place.put(&format!("digests-{kind}"), &[&[policy], &text[..]].concat());
    }
    place.put("hex", b"\x01\x400x00112233445566778899aabbccddeeff");
    place.put("base64", b"\x01\x400bAAECAwQFBgcICQoLDA0ODw==");
    place.put("iqn", b"\x02iqn.2010-04.ORG.ipxe:node1");
    place.put("targets", b"\x03\x01\x80\x00\x10SendTargets=All\0");
    place.put(
        "pieces",
        b"\x03\x01\x40\x00\x05SendT\x80\x01\x0bargets=All\0\x80\x01\0",
    );
    place.put("number", b"\x040x0fffFFFF");
    place.put("list", b"\x045,6,7,8");
    place.put("list-by-policy", b"\xeb8,5,7,6");
}

fn pdus(place: &Place) {
    let raw = |rules: u8, bytes: &[u8]| [&[rules], &[0; 8][..], bytes].concat();
    place.put("tls", &raw(4, &[0x16, 3, 1, 2, 0, 1]));
    place.put("http", &raw(4, b"GET / HTTP/1.1\r\n\r\n"));
    let mut login = [0; 48];
    (login[0], login[5], login[6], login[7]) = (0x43, 0xff, 0xff, 0xff);
    place.put("long", &raw(4, &login));
    (login[4], login[5], login[6], login[7]) = (0xff, 0, 0, 0);
    place.put("ahs", &raw(4, &login));
    place.put("short", &raw(0xc0, &login[..47]));
    // PDUs to be encoded: header, words of AHS, length.
    for rules in 0..4_u8 {
        let mut bytes = raw(0xc8 | rules, &[0, 0]);
        for (opcode, ahs, len) in [(1_u8, 0_u8, 5000_u16), (5, 0, 9000), (0, 3, 7), (1, 2, 0)] {
            let mut bhs = [0; 48];
            bhs[0] = opcode;
            bytes.extend_from_slice(&bhs);
            bytes.push(ahs);
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        place.put(&format!("digests-{rules}"), &bytes);
    }
}

/// A command of the target `scsi`, by the place of its opcode in the target's list.
fn known(at: u8, lba: u8, count: u8, fill: u8) -> Vec<u8> {
    [11, at, 0, lba, count, fill].to_vec()
}

fn scsi(place: &Place) {
    // Write, read, write the same, compare and write, unmap.
    let blocks = [
        known(14, 3, 4, 7),
        known(13, 3, 4, 0),
        known(20, 0, 9, 1),
        known(28, 0, 1, 1),
    ];
    place.put(
        "blocks",
        &[
            vec![0],
            blocks.concat(),
            [11, 21, 0, 0, 24, 0, 3, 2].to_vec(),
        ]
        .concat(),
    );
    // A SANITIZE that fails, and the way out; one that is well. Copies within the disk.
    let sanitize = [
        vec![0xdb, 41, 0x21, 0, 0, 0],
        vec![0xb, 41, 0x02, 0, 0, 0],
        known(14, 0, 1, 1),
        vec![0xb, 41, 0x20, 8, 0, 2],
        known(13, 0, 1, 0),
        [11, 42, 0, 1, 2, 0, 1, 0, 9, 4, 9, 8].to_vec(),
        known(43, 1, 12, 0),
        known(40, 3, 4, 7),
    ];
    place.put("sanitize", &[vec![0], sanitize.concat()].concat());
    let lists: Vec<u8> = (0..=255).flat_map(|opcode| [3, opcode, 0]).collect();
    place.put("opcodes", &[vec![0], lists].concat());
    let tell: Vec<Vec<u8>> = [
        (4, 0x83, 255),
        (8, 0x3f, 255),
        (24, 0x3f, 255),
        (36, 0, 255),
        (37, 0, 255),
    ]
    .iter()
    .map(|(at, page, len)| known(*at, *page, *len, 0))
    .collect();
    place.put("identity", &[vec![1], tell.concat()].concat());
}

fn reservations(place: &Place) {
    // REGISTER, RESERVE, PREEMPT by another, RELEASE, and what they tell.
    let out = |nexus: u8, action: u8, kind: u8, own: u8, key: u8| {
        [nexus << 4 | 4, kind << 5 | action, own | key << 2].to_vec()
    };
    let turns = [
        out(0, 0, 0, 0, 1),
        out(1, 0, 0, 0, 2),
        out(0, 1, 0, 1, 0),
        vec![0x17],
        known(14, 0, 1, 1),
        vec![0x1b, 14, 0, 0, 1, 1],
        out(1, 5, 1, 2, 1),
        vec![7],
        out(1, 2, 1, 2, 0),
        out(1, 3, 0, 2, 0),
        vec![7],
    ];
    place.put("reservations", &[vec![0], turns.concat()].concat());
    // Registered for good, with a write of it that fails first; a restart; moved to another port.
    let lasting = [
        vec![0xd4, 0, 4 | 0x10],
        out(0, 0, 0, 0, 0x11),
        out(0, 1, 0, 1, 0),
        vec![9],
        vec![7],
        out(0, 7, 0, 1, 0x12),
        vec![9],
        vec![7],
    ];
    place.put("lasting", &[vec![0], lasting.concat()].concat());
    let all = [
        out(0, 0, 0, 0, 1),
        out(1, 6, 0, 0, 2),
        out(1, 1, 4, 2, 0),
        out(0, 4, 5, 1, 0),
        vec![7],
    ];
    place.put("all-registrants", &[vec![0], all.concat()].concat());
}

fn connections(place: &Place) {
    // Setup: flags, sizes. A command: 0, tag, shape, lba, count. An answer to an R2T: 5, which, twist.
    let start = |flags: u8| vec![flags, 0x45];
    let command = |tag: u8, shape: u8, lba: u8, count: u8| [0, tag, shape, lba, count].to_vec();
    let answer = |twist: u8| [5, 0, twist].to_vec();
    let read = [command(1, 0, 2, 20), command(2, 0, 0, 63)];
    place.put("reads", &[start(2), read.concat()].concat());
    let write = [
        command(1, 3, 2, 40),
        answer(0x10),
        answer(0x30),
        answer(0x10),
        answer(0x10),
    ];
    place.put("write", &[start(3), write.concat()].concat());
    let early = [
        command(1, 0xc3, 2, 40),
        [8, 1, 0, 8, 0].to_vec(),
        [8, 1, 0, 8, 1].to_vec(),
        answer(0x10),
    ];
    place.put("unsolicited", &[start(2), early.concat()].concat());
    let abort = [
        command(1, 3, 2, 40),
        [9, 0, 1, 1].to_vec(),
        answer(0x10),
        command(1, 0, 0, 1),
    ];
    place.put("abort", &[start(3), abort.concat()].concat());
    let held = [
        command(1, 0, 2, 8),
        [9, 0, 2, 0].to_vec(),
        vec![12],
        vec![0x5f],
        command(1, 0, 2, 8),
    ];
    place.put("abort-running", &[start(0xe3), held.concat()].concat());
    let others = [
        vec![10, 0, 4, 1, 2, 3, 4],
        vec![10, 1, 0],
        vec![10, 0x43, 0],
        vec![10, 0x42, 0],
    ];
    place.put("others", &[start(3), others.concat()].concat());
    let ordered = [
        command(0x41, 0, 0, 1),
        command(0x22, 3, 0, 2),
        command(3, 0, 0, 1),
        answer(0x10),
    ];
    place.put("ordered", &[start(0x63), ordered.concat()].concat());
    place.put(
        "discovery",
        &[start(0x0c), vec![10, 1, 16], b"SendTargets=All\0".to_vec()].concat(),
    );
}

fn boots(place: &Place) {
    // A message: 4, who, kind, class, more. Kinds 0 and 1 are DISCOVER and REQUEST.
    let message = |who: u8, kind: u8, class: u8| [4, who, kind, class, 0].to_vec();
    for (name, class) in [("pxe", 0x08), ("http", 0x09), ("ipxe", 0x0c), ("os", 0x03)] {
        for (mode, config) in [("server", 0), ("proxy", 1)] {
            let turns = [
                message(1, 0, class),
                message(1, 1, class | 0x10),
                vec![0x0a],
                message(9, 0, class),
            ];
            place.put(
                &format!("{name}-{mode}"),
                &[vec![config], turns.concat(), vec![0x4a]].concat(),
            );
        }
    }
    let fight = [
        message(5, 0, 3),
        message(5, 1, 0x13),
        message(6, 0, 3),
        message(0x86, 1, 0x13),
        message(5, 4, 3),
        vec![0, 0xff, 0xff],
        message(7, 0, 3),
        message(7, 1, 0x13),
        message(5, 5, 3),
    ];
    place.put("leases", &[vec![0], fight.concat()].concat());
}

fn transfers(place: &Place) {
    let request = |options: &str| format!("\0\x01ipxe.efi\0octet\0{options}").into_bytes();
    for (name, options) in [
        ("plain", ""),
        ("sized", "tsize\x000\0blksize\x001456\0"),
        ("window", "blksize\x008\0windowsize\x004\0timeout\x002\0"),
    ] {
        let bytes = request(options);
        let len = u8::try_from(bytes.len()).expect("a short request");
        // A file of 2,000 bytes, and one of two whole blocks.
        for (kind, size) in [("", [0xd0, 7]), ("-whole", [0x20, 0x80])] {
            let acks = [5, 0, 0].into_iter().chain([0; 40]);
            let seed = size
                .into_iter()
                .chain([len])
                .chain(bytes.clone())
                .chain(acks);
            place.put(&format!("{name}{kind}"), &seed.collect::<Vec<u8>>());
        }
    }
}

fn disks(place: &Place) {
    let tables = |mends: u8, sectors: &[(u8, u16, &[u8])]| {
        let mut out = [vec![0], 4096_u32.to_le_bytes().to_vec(), vec![0, mends]].concat();
        for (place, at, bytes) in sectors {
            out.push(*place);
            out.extend_from_slice(&at.to_le_bytes());
            out.push(u8::try_from(bytes.len()).expect("a short run"));
            out.extend_from_slice(bytes);
        }
        out
    };
    let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0];
    place.put("mbr", &tables(1, &[(0, 446, &entry)]));
    let extended = [0, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0, 0];
    place.put(
        "logical",
        &tables(1, &[(0, 446, &extended), (8, 446, &entry)]),
    );
    let mut header = [0; 68];
    (header[0], header[8], header[48], header[56], header[60]) = (1, 0xff, 2, 4, 128);
    place.put(
        "gpt",
        &tables(7, &[(0, 440, b"disk"), (1, 24, &header), (2, 0, &entry)]),
    );
    let qcow2 = small_qcow2();
    place.put("qcow2", &[&[2, 0, 0], qcow2.as_slice()].concat());
    place.put("qcow2-file", &[&[3, 0], qcow2.as_slice()].concat());
    place.put("raw-file", &[vec![3, 0], vec![7; 1024]].concat());
    place.put(
        "gzip-file",
        &[&[3, 0, 0x1f, 0x8b, 8][..], &[0; 600]].concat(),
    );
    for (name, packed) in PACKED {
        place.put(&format!("{name}-packed"), &join(&[&[3, 0], packed]));
    }
    foreign_disks(place);
}

/// 2,048 zeros, packed by gzip, xz and zstd.
const PACKED: [(&str, &[u8]); 3] = [
    (
        "gzip",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\x18\x05\xa3\x60\x14\x8c\x82\x51\
            \x30\x0a\x46\xc1\x48\x03\x00\x9e\xba\xe8\xf1\x00\x08\x00\x00",
    ),
    (
        "xz",
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x0c\x00\x00\x00\
            \x8f\x98\x41\x9c\xe0\x07\xff\x00\x11\x5d\x00\x00\x6f\xfd\xff\xff\xa3\xb7\xff\x47\
            \x3e\x48\x15\x70\x94\xa9\x60\x00\x00\x00\x00\x00\x47\xe3\x27\x24\x18\x68\xfb\x38\
            \x00\x01\x2d\x80\x10\x00\x00\x00\x38\x25\x98\x99\xb1\xc4\x67\xfb\x02\x00\x00\x00\
            \x00\x04\x59\x5a",
    ),
    (
        "zstd",
        b"\x28\xb5\x2f\xfd\x04\x58\x4d\x00\x00\x10\x00\x00\x01\x00\xfb\xff\x00\x0b\x02\x3e\
            \xd8\xa4",
    ),
];

/// Bytes one after the other.
fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Parts of a file for the readers of VHD, VHDX and VMDK: unit and number of the place, length, bytes.
fn pieces(reader: u8, parts: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![reader, 0, 0];
    for (unit, number, bytes) in parts {
        out.extend_from_slice(&[*unit, *number]);
        out.push(u8::try_from(bytes.len()).expect("a short part"));
        out.extend_from_slice(bytes);
    }
    out
}

fn foreign_disks(place: &Place) {
    let long = |n: u64| n.to_be_bytes();
    for (name, kind) in [("fixed", 2), ("dynamic", 3), ("differencing", 4)] {
        let footer = join(&[
            b"conectix\0\0\0\x02\0\x01\0\0",
            &long(512),
            &[0; 4],
            b"win \0\0\0\0\0\0\0\0",
            &long(16_384),
            &long(16_384),
            &[0, 1, 1, 1, 0, 0, 0, kind],
        ]);
        let header = join(&[
            b"cxsparse",
            &[0xff; 8],
            &long(2048),
            &[0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0x10, 0],
        ]);
        let table = [8, u32::MAX, 24, 40].map(u32::to_be_bytes).concat();
        let parts = [
            (0, 0, footer),
            (0, 1, header),
            (0, 4, table),
            (0, 8, vec![0xf0; 2]),
        ];
        place.put(&format!("vhd-{name}"), &pieces(4, &parts));
    }
    place.put("vhdx", &small_vhdx());
    for (name, flags) in [("sparse", 1_u32), ("stream", 1 | 1 << 16 | 1 << 17)] {
        let long = |n: u64| n.to_le_bytes();
        let header = join(&[
            b"KDMV\x01\0\0\0",
            &flags.to_le_bytes(),
            &[long(64), long(8), long(0), long(0)].concat(),
            &[4, 0, 0, 0],
            &[long(0), long(2), long(16)].concat(),
            b"\0\n \r\n\x01\0",
        ]);
        let grains = [16_u32, 0, 24, 0].map(u32::to_le_bytes).concat();
        let tables = [3_u32, 0].map(u32::to_le_bytes).concat();
        let marker = join(&[
            &long(0),
            &[16, 0, 0, 0],
            b"\x78\x9c\x63\x60\x18\x05\xa3\x60",
        ]);
        let parts = [
            (0, 0, header),
            (0, 2, tables),
            (0, 3, grains),
            (0, 16, marker),
        ];
        place.put(&format!("vmdk-{name}"), &pieces(6, &parts));
    }
    let text = b"\x07# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n\
        RW 64 SPARSE \"a.vmdk\"\nRW 8 FLAT \"b\" 3\nRW 9 ZERO\n";
    place.put("vmdk-text", text);
}

/// Headers, regions, three metadata items, two blocks of which one is there.
fn small_vhdx() -> Vec<u8> {
    let long = |n: u64| n.to_le_bytes();
    let header = join(&[
        b"head\0\0\0\0",
        &long(1),
        &[0; 50],
        &[1, 0, 0, 0, 0x10, 0],
        &long(1 << 20),
    ]);
    let regions = join(&[
        b"regi\0\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08",
        &long(3 << 20),
        &[0, 0, 0x10, 0, 1, 0, 0, 0],
        b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e",
        &long(2 << 20),
        &[0, 0, 0x10, 0, 1],
    ]);
    let items: [(&[u8; 16], &[u8]); 3] = [
        (
            b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b",
            b"\0\0\x10\0\0\0\0\0",
        ),
        (
            b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8",
            b"\0\0\x20\0\0\0\0\0",
        ),
        (
            b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f",
            b"\0\x02\0\0",
        ),
    ];
    let mut table = join(&[b"metadata\0\0\x03\0", &[0; 20]]);
    let (mut values, mut at) = (Vec::new(), 64_u32 << 10);
    for (id, value) in items {
        let len = u32::try_from(value.len()).expect("a short item");
        let rest = [at, len, 4, 0].map(u32::to_le_bytes).concat();
        table.extend(join(&[id, &rest]));
        values.extend_from_slice(value);
        at += len;
    }
    let parts = [
        (0, 0, b"vhdxfile".to_vec()),
        (1, 1, header.clone()),
        (1, 2, header),
        (1, 3, regions.clone()),
        (1, 4, regions),
        (2, 2, table),
        (1, 33, values),
        (2, 3, join(&[&long(4 << 20 | 6), &long(0)])),
    ];
    pieces(5, &parts)
}

/// A qcow2 file of version 2 with clusters of 512 bytes: header, L1, L2, refcounts, one cluster of data.
fn small_qcow2() -> Vec<u8> {
    let mut file = vec![0; 6 * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x02");
    put(20, &9_u32.to_be_bytes());
    put(24, &(16_u64 << 10).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &512_u64.to_be_bytes());
    put(48, &1536_u64.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(512, &(1 << 63 | 1024_u64).to_be_bytes());
    put(1024, &(1 << 63 | 2560_u64).to_be_bytes());
    put(1536, &2048_u64.to_be_bytes());
    for cluster in 0..6 {
        put(2048 + 2 * cluster, &1_u16.to_be_bytes());
    }
    put(2560, &[0x55; 512]);
    file
}

fn stores(place: &Place) {
    place.put(
        "manifest",
        &[&[1, 70, 0, 0, 0, 0, 0, 0][..], &[0xff; 8], &[3; 8]].concat(),
    );
    // A layer is born, blocks are present and zero, one is reset; in journal, checkpoint and soft log.
    let born = [2, 1, 1, 1, 0xff, 0];
    let present = [3, 1, 1, 0, 0, 9, 0];
    let zero = [4, 1, 1, 3, 0, 1, 0];
    let frame = [&born[..], &present, &zero, &[5, 2, 2]].concat();
    for (name, logs) in [
        ("journal", vec![0x04]),
        ("chain", vec![0x05, 0x04, 0x08]),
        ("soft", vec![0x04, 0x06]),
        ("torn", vec![0x44]),
        ("last", vec![0x3c, 0x3d]),
        // Format 3: its soft log may say that a sync failed.
        ("poisoned", vec![0x04, 0x06]),
        ("redo", vec![0x04]),
    ] {
        let mut bytes = vec![2];
        for what in logs {
            let version = if matches!(name, "poisoned" | "redo") { 0x20 } else { 0 };
            bytes.extend_from_slice(&[what, 1 | version]);
            match (name, what) {
                // Each entry: kind, layer, generation, and its own; four make a frame.
                ("poisoned", 0x06) => {
                    bytes.extend_from_slice(&[13, 1, 1, 13, 3, 1, 0, 0, 0, 0, 0, 0]);
                }
                ("redo", _) => {
                    bytes.extend_from_slice(&born);
                    bytes.extend_from_slice(&[1, 1, 1, 8, 0, 32, 1, 1, 1, 16, 0, 32, 12, 1, 1, 8, 0]);
                }
                _ => bytes.extend_from_slice(&frame),
            }
            if what & 0x40 != 0 {
                bytes.extend_from_slice(&[40, 0, 9]);
            }
        }
        place.put(name, &bytes);
    }
}

/// Each small disk whole, and with harm in the sectors that come first: boot sector, superblock, tables.
fn file_systems(place: &Place) {
    for (which, name) in ["ext4", "fat12", "fat32", "ntfs", "xfs4", "xfs5"].iter().enumerate() {
        let which = u8::try_from(which).expect("few of them");
        place.put(name, &[which]);
        for (nth, sector) in [0_u8, 2, 9, 30].into_iter().enumerate() {
            let harm = [sector, 0, 40, nth as u8, 4, 1, 2, 3, 4, sector, 1, 7, 0, 2, 0xff, 0xff];
            place.put(&format!("{name}-{nth}"), &[&[which], &harm[..]].concat());
        }
    }
}

fn catalog_texts(place: &Place) {
    let id = "00112233".repeat(8);
    let whole = format!(
        "format: 1\nimages:\n  debian12:\n    next: 9\n    tags:\n      stable: 1\n    versions:\n      \
        1:\n        id: {id}\n        size: 65536\n        note: \"6.12: # new\"\n        arch: x86_64\n\
        profiles:\n  disks:\n    disk: [read-only, 512n]\n    layer-limit: 8G\n    layer-warn: 6G\n\
        nodes:\n- nodes: n[1-3]\n  profile: disks\n  image: debian12:stable\n  mode: persistent\n  \
        macs:\n    n1: [\"52:54:00:00:00:01\", 52-54-00-00-00-02]\n  ips: {{n1: 10.0.0.1}}\n  \
        power: \"ipmitool -H {{node}} {{action}}\"\n- nodes: n9\n  boot: local\n  loader: chain\n\
        drain:\n  head: {{}}\n  nodes:\n  - nodes: n2\n    to: 10.0.0.2:3260\n\
        identities:\n  n1: {{disk: a, secret: \"0x1\", head_secret: '1e3'}}\n"
    );
    let json = r#"{"format":1,"nodes":[{"nodes":"n[1-2]","mode":"ephemeral"}],"images":{}}"#;
    for (name, text) in [
        ("whole", whole.as_str()),
        ("json", json),
        ("alias", "format: 1\na: &a [x,x]\nb: *a\n"),
        ("deep", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
        ("block", "format: 1\nimages:\n  d:\n    versions:\n      1:\n        note: |\n          a\n"),
        ("two", "format: 1\n---\nformat: 1\n"),
    ] {
        place.put(name, &[&[0], text.as_bytes()].concat());
    }
    place.put("built", &[1, 3, 6, 7, 72, 11, 12, 72, 14, 15]);
}
