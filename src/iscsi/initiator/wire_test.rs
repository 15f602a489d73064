//! The initiator over loopback against a little target made of the same pure parts: Login, Decoder,
//! Encoder, Text. It serves a RAM disk of 512-byte blocks with R2T, and keeps the sequence rules.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::profiles::{EDK2, IPXE, LIBISCSI};
use super::*;
use crate::iscsi::login::{Access, Credentials, Event, Login, Options, Output};
use crate::iscsi::params::{Negotiated, SessionType};
use crate::iscsi::pdu::{RESERVED_TAG, op};
use crate::iscsi::text::{Found as Listed, Step, Text};
use crate::names::Iqn;

const NODE: &str = "iqn.2026-11.x:host";
const TARGET: &str = "iqn.2026-11.x:node1";
const DISK_BYTES: usize = 4 << 20;

/// One connection of the little target.
struct Target {
    stream: TcpStream,
    rx: Rx,
    encoder: Encoder,
    agreed: Negotiated,
    session: SessionType,
    stat_sn: u32,
    exp_cmd_sn: u32,
    disk: Vec<u8>,
    writing: Vec<Writing>,
    text: Option<Text>,
    flip_data: bool,
}

/// A write that waits for its data.
struct Writing {
    itt: u32,
    at: usize,
    len: usize,
    have: usize,
    r2ts: u32,
}

fn access() -> Access {
    Access::Allow {
        chap: None,
        mutual: None,
    }
}

fn machine() -> Login {
    Login::new(Options {
        portal_group: 1,
        first_stat_sn: 7,
        entropy: [3; 64],
        algorithms: crate::iscsi::Algorithms::default(),
        accepted: Instant::now(),
    })
}

impl Target {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            rx: Rx::new(Decoder::login(), 1 << 20),
            encoder: Encoder::default(),
            agreed: Negotiated::default(),
            session: SessionType::Normal,
            stat_sn: 0,
            exp_cmd_sn: 0,
            disk: (0..DISK_BYTES)
                .map(|at| u8::try_from(at / 512 % 251).unwrap())
                .collect(),
            writing: Vec::new(),
            text: None,
            flip_data: false,
        }
    }

    async fn next(&mut self) -> Option<(Bhs, Vec<u8>)> {
        loop {
            match self.rx.next() {
                Found::Whole(frame) => {
                    assert!(frame.intact, "data digest of the initiator");
                    return Some((frame.bhs, self.rx.bytes(frame.data).to_vec()));
                }
                Found::More => match self.stream.read(self.rx.space()).await.unwrap_or(0) {
                    0 => return None,
                    len => self.rx.filled(len),
                },
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, mut bhs: Bhs, data: &[u8], counts: bool) {
        bhs.put_sequence(
            self.stat_sn,
            self.exp_cmd_sn,
            self.exp_cmd_sn.wrapping_add(127),
        );
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(counts));
        let mut out = Vec::new();
        self.encoder.pdu(bhs, &[], data, &mut out);
        if self.flip_data && data.len() > 100 {
            out[100] ^= 1;
        }
        let _ = self.stream.write_all(&out).await;
    }

    /// Runs the login; false when it failed.
    async fn log_in(&mut self, access: Access) -> bool {
        let mut login = machine();
        while let Some((bhs, data)) = self.next().await {
            login.apply(Event::Request(&bhs, &data));
            while let Some(output) = login.poll() {
                match output {
                    Output::Send(bhs, data) => {
                        let mut out = Vec::new();
                        Encoder::default().pdu(bhs, &[], &data, &mut out);
                        self.stream.write_all(&out).await.unwrap();
                    }
                    Output::Ask(_) => login.apply(Event::Access(access.clone())),
                    Output::Enter(established) => {
                        self.rx
                            .expect(Decoder::full_feature(&established.negotiated));
                        self.encoder = Encoder::full_feature(&established.negotiated);
                        self.agreed = established.negotiated.clone();
                        self.session = established.ask.session_type;
                        self.stat_sn = established.stat_sn;
                        self.exp_cmd_sn = established.cmd_sn;
                        let own = established.ask.target.clone();
                        self.text = Some(Text::new(self.session, own, 1, &self.agreed));
                        login.apply(Event::Entered { tsih: 1 });
                    }
                    Output::Finished => return true,
                    Output::Close(_) => return false,
                }
            }
        }
        false
    }

    async fn serve(mut self, access: Access) {
        if !self.log_in(access).await {
            return;
        }
        while let Some((bhs, data)) = self.next().await {
            if !bhs.immediate() && bhs.opcode() != op::DATA_OUT {
                assert_eq!(bhs.cmd_sn(), self.exp_cmd_sn, "CmdSN in order");
                self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            }
            match bhs.opcode() {
                op::SCSI_COMMAND => self.command(&bhs, &data).await,
                op::DATA_OUT => self.data_out(&bhs, &data).await,
                op::NOP_OUT => {
                    let mut pong = Bhs::new(op::NOP_IN);
                    pong.put_u8(1, 0x80);
                    pong.put_u32(16, bhs.itt());
                    pong.put_u32(20, RESERVED_TAG);
                    self.send(pong, &data, true).await;
                }
                op::TEXT => self.text(&bhs, &data).await,
                op::TASK_MANAGEMENT => {
                    let mut done = Bhs::new(op::TASK_MANAGEMENT_RESPONSE);
                    done.put_u8(1, 0x80);
                    done.put_u8(2, 1);
                    done.put_u32(16, bhs.itt());
                    self.send(done, &[], true).await;
                }
                op::LOGOUT => {
                    let mut done = Bhs::new(op::LOGOUT_RESPONSE);
                    done.put_u8(1, 0x80);
                    done.put_u32(16, bhs.itt());
                    self.send(done, &[], true).await;
                    return;
                }
                _ => {
                    let mut reject = Bhs::new(op::REJECT);
                    reject.put_u8(1, 0x80);
                    reject.put_u8(2, 5);
                    reject.put_u32(16, RESERVED_TAG);
                    self.send(reject, &bhs.0, true).await;
                }
            }
        }
    }

    async fn text(&mut self, bhs: &Bhs, data: &[u8]) {
        let text = self.text.as_mut().unwrap();
        let mut step = text.request(bhs, data);
        if matches!(step, Step::Targets(_)) {
            let found: Vec<Listed> = (0..30)
                .map(|n| Listed {
                    name: Iqn::parse(&format!("{TARGET}{n}")).unwrap(),
                    portals: vec!["127.0.0.1:3260".into()],
                })
                .collect();
            step = text.targets(&found);
        }
        let Step::Send(bhs, data) = step else {
            panic!("{step:?}")
        };
        self.send(bhs, &data, true).await;
    }

    async fn command(&mut self, bhs: &Bhs, data: &[u8]) {
        let lba = usize::try_from(bhs.u32_at(34)).unwrap();
        let len = usize::from(bhs.u16_at(39)) * 512;
        let (at, itt) = (lba * 512, bhs.itt());
        match bhs.u8_at(32) {
            0x28 => self.read(itt, at, len).await,
            0x2a => {
                self.disk[at..at + data.len()].copy_from_slice(data);
                self.writing.push(Writing {
                    itt,
                    at,
                    len,
                    have: data.len(),
                    r2ts: 0,
                });
                self.ask(itt).await;
            }
            _ => self.status(itt, 2, 0, &[0, 3, 0x70, 0, 5]).await,
        }
    }

    async fn read(&mut self, itt: u32, at: usize, len: usize) {
        let size = usize::try_from(self.agreed.initiator_mrdsl).unwrap();
        let burst = usize::try_from(self.agreed.max_burst).unwrap();
        let mut offset = 0;
        for sn in 0_u32.. {
            let piece = size.min(len - offset).min(burst - offset % burst);
            let end = offset + piece;
            let mut bhs = Bhs::new(op::DATA_IN);
            let last = end == len;
            let flags = if last {
                0x81
            } else if end % burst == 0 {
                0x80
            } else {
                0
            };
            bhs.put_u8(1, flags);
            bhs.put_u32(16, itt);
            bhs.put_u32(20, RESERVED_TAG);
            bhs.put_u32(36, sn);
            bhs.put_u32(40, u32::try_from(offset).unwrap());
            let data = self.disk[at + offset..at + end].to_vec();
            self.send(bhs, &data, last).await;
            offset = end;
            if last {
                return;
            }
        }
    }

    /// Asks for the next burst of a write, or answers it.
    async fn ask(&mut self, itt: u32) {
        let burst = usize::try_from(self.agreed.max_burst).unwrap();
        let writing = self.writing.iter_mut().find(|w| w.itt == itt).unwrap();
        if writing.have == writing.len {
            let r2ts = writing.r2ts;
            self.writing.retain(|w| w.itt != itt);
            return self.status(itt, 0, r2ts, &[]).await;
        }
        let mut bhs = Bhs::new(op::R2T);
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, 5);
        bhs.put_u32(36, writing.r2ts);
        bhs.put_u32(40, u32::try_from(writing.have).unwrap());
        let len = burst.min(writing.len - writing.have);
        bhs.put_u32(44, u32::try_from(len).unwrap());
        writing.r2ts += 1;
        self.send(bhs, &[], false).await;
    }

    async fn data_out(&mut self, bhs: &Bhs, data: &[u8]) {
        let writing = self
            .writing
            .iter_mut()
            .find(|w| w.itt == bhs.itt())
            .unwrap();
        assert_eq!(usize::try_from(bhs.u32_at(40)), Ok(writing.have));
        let at = writing.at + writing.have;
        writing.have += data.len();
        self.disk[at..at + data.len()].copy_from_slice(data);
        if bhs.flags() & 0x80 != 0 {
            self.ask(bhs.itt()).await;
        }
    }

    async fn status(&mut self, itt: u32, status: u8, exp_data_sn: u32, sense: &[u8]) {
        let mut bhs = Bhs::new(op::SCSI_RESPONSE);
        bhs.put_u8(1, 0x80);
        bhs.put_u8(3, status);
        bhs.put_u32(16, itt);
        bhs.put_u32(36, exp_data_sn);
        self.send(bhs, sense, true).await;
    }
}

/// Starts a target that answers each connection with the next of `answers`.
async fn target(answers: Vec<Access>) -> SocketAddr {
    target_with(answers, |_| {}).await
}

async fn target_with(answers: Vec<Access>, change: fn(&mut Target)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for access in answers {
            let (stream, _) = listener.accept().await.unwrap();
            let mut target = Target::new(stream);
            change(&mut target);
            tokio::spawn(target.serve(access));
        }
    });
    address
}

fn cdb(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// Runs a test with an end: a hang is a failure.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("it hangs");
    });
}

fn digests(offer: Offer) -> Offer {
    offer
        .with("HeaderDigest", "CRC32C")
        .with("DataDigest", "CRC32C")
}

#[test]
fn reads_and_writes_arrive_with_and_without_digests() {
    run(async {
        for offer in [Offer::new(NODE, TARGET), digests(Offer::new(NODE, TARGET))] {
            let address = target(vec![access()]).await;
            let mut initiator = Initiator::connect(address, offer).await.unwrap();
            let data: Vec<u8> = (0..1_500_160_u32)
                .map(|n| n.to_le_bytes()[0] ^ 0x5a)
                .collect();
            let blocks = u16::try_from(data.len() / 512).unwrap();
            let done = initiator
                .write(0, &cdb(0x2a, 100, blocks), &data)
                .await
                .unwrap();
            assert_eq!((done.status, done.r2ts), (0, 2));
            let len = u32::try_from(data.len()).unwrap();
            let done = initiator
                .read(0, &cdb(0x28, 100, blocks), len)
                .await
                .unwrap();
            assert_eq!((done.status, done.collapsed), (0, true));
            assert!(done.data == data);
            assert_eq!(initiator.nop(b"hello").await.unwrap(), b"hello");
            assert_eq!(initiator.task_management(1, 0, 4711).await.unwrap(), 1);
            assert_eq!(initiator.logout().await.unwrap(), 0);
        }
    });
}

#[test]
fn many_commands_are_outstanding_and_each_gets_its_own_data() {
    run(async {
        let address = target(vec![access()]).await;
        let mut initiator = Initiator::connect(address, Offer::new(NODE, TARGET))
            .await
            .unwrap();
        let (mut sent, mut done) = (0_u32, 0);
        while done < 2000 {
            while sent < 2000 && initiator.engine().outstanding() < 32 {
                let cdb = cdb(0x28, sent % 8000, 8);
                let transfer = Transfer::In(4096, Some(Vec::new()));
                initiator
                    .submit(Command::new(0, &cdb, transfer).token(sent.into()))
                    .unwrap();
                sent += 1;
            }
            let Completion::Command(answer) = initiator.complete().await.unwrap() else {
                panic!("something else");
            };
            let lba = answer.token % 8000;
            for (at, block) in answer.data.chunks(512).enumerate() {
                let wanted = u8::try_from((lba + u64::try_from(at).unwrap()) % 251).unwrap();
                assert!(block.iter().all(|&byte| byte == wanted));
            }
            done += 1;
        }
        assert_eq!(initiator.engine().outstanding(), 0);
    });
}

#[test]
fn large_reads_and_writes_at_once_do_not_block_each_other() {
    run(async {
        let address = target(vec![access()]).await;
        let offer = digests(Offer::new(NODE, TARGET));
        let mut initiator = Initiator::connect(address, offer).await.unwrap();
        let data: std::sync::Arc<[u8]> = vec![9; 1 << 20].into();
        for _ in 0..16 {
            let out = Transfer::Out(data.clone());
            initiator
                .submit(Command::new(0, &cdb(0x2a, 0, 2048), out))
                .unwrap();
            let into = Transfer::In(1 << 20, None);
            initiator
                .submit(Command::new(0, &cdb(0x28, 4096, 2048), into))
                .unwrap();
        }
        for _ in 0..32 {
            let Completion::Command(done) = initiator.complete().await.unwrap() else {
                panic!("something else");
            };
            assert_eq!((done.status, done.received + done.sent), (0, 1 << 20));
        }
    });
}

#[test]
fn a_check_condition_brings_its_sense() {
    run(async {
        let address = target(vec![access()]).await;
        let mut initiator = Initiator::connect(address, Offer::new(NODE, TARGET))
            .await
            .unwrap();
        let command = Command::new(0, &[0xee], Transfer::None);
        let done = initiator.execute(command).await.unwrap();
        assert_eq!((done.status, done.sense.as_slice()), (2, &[0x70, 0, 5][..]));
    });
}

#[test]
fn send_targets_come_in_pieces_and_whole() {
    run(async {
        let address = target(vec![access()]).await;
        let offer = Offer::discovery(NODE).with("MaxRecvDataSegmentLength", "512");
        let mut initiator = Initiator::connect(address, offer).await.unwrap();
        let found = initiator.send_targets("All").await.unwrap();
        assert_eq!(found.len(), 60);
        assert_eq!(
            found[59],
            ("TargetAddress".into(), "127.0.0.1:3260,1".into())
        );
        let wrong = initiator.send_targets("Alle").await.unwrap();
        assert_eq!(wrong, [("SendTargets".into(), "Reject".into())]);
    });
}

#[test]
fn redirects_are_followed_and_endless_ones_are_not() {
    run(async {
        let there = target(vec![access()]).await;
        let here = target(vec![Access::Redirect(there.to_string())]).await;
        for (address, reached) in [(here, there)] {
            let initiator = Initiator::connect(address, Offer::new(NODE, TARGET))
                .await
                .unwrap();
            assert_eq!(initiator.address(), reached);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ring = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                Target::new(stream)
                    .serve(Access::Redirect(ring.to_string()))
                    .await;
            }
        });
        let lost = Initiator::connect(ring, Offer::new(NODE, TARGET))
            .await
            .unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Protocol);
    });
}

#[test]
fn every_profile_works_over_the_wire_with_mutual_chap() {
    let credentials = |user: &str, secret: &str| Credentials {
        user: user.into(),
        secret: secret.into(),
    };
    run(async move {
        for profile in [IPXE, EDK2, LIBISCSI] {
            let allow = Access::Allow {
                chap: Some(credentials("n", "sixteen-letters!")),
                mutual: Some(credentials("h", "other-sixteen-ls")),
            };
            let address = target(vec![allow.clone(), allow]).await;
            let mut offer = Offer {
                profile,
                chap: Some(credentials("n", "sixteen-letters!")),
                mutual: Some(credentials("h", "other-sixteen-ls")),
                entropy: [1; 33],
                ..Offer::new(NODE, TARGET)
            };
            let mut initiator = Initiator::connect(address, offer.clone()).await.unwrap();
            initiator
                .write(0, &cdb(0x2a, 0, 200), &[1; 102_400])
                .await
                .unwrap();
            let done = initiator
                .read(0, &cdb(0x28, 0, 200), 102_400)
                .await
                .unwrap();
            assert!(done.data == [1; 102_400]);
            offer.chap = Some(credentials("n", "wrong-letters-16"));
            let refused = Initiator::connect(address, offer).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused(0x0201));
        }
    });
}

#[test]
fn a_broken_data_digest_is_noticed() {
    run(async {
        let address = target_with(vec![access()], |target| target.flip_data = true).await;
        let offer = digests(Offer::new(NODE, TARGET));
        let mut initiator = Initiator::connect(address, offer).await.unwrap();
        let broken = initiator.read(0, &cdb(0x28, 0, 8), 4096).await.unwrap_err();
        assert!(broken.to_string().contains("data digest"), "{broken}");
    });
}

#[test]
fn raw_pdus_reach_the_target_and_its_reject_comes_back() {
    run(async {
        let address = target(vec![access()]).await;
        let mut initiator = Initiator::connect(address, Offer::new(NODE, TARGET))
            .await
            .unwrap();
        let bhs = initiator.engine().request(0x1c, true);
        initiator.engine().raw(bhs, &[], &[]);
        let Completion::Reject { reason, header } = initiator.complete().await.unwrap() else {
            panic!("something else");
        };
        assert_eq!((reason, header[0]), (5, 0x5c));
        let mut wire = Wire::connect(target(vec![access()]).await).await.unwrap();
        wire.put(b"GET / HTTP/1.1\r\n\r\n");
        assert!(
            wire.receive().await.unwrap().is_none(),
            "the target closes at once"
        );
    });
}

#[test]
fn waiting_may_be_given_up_and_taken_up_again() {
    run(async {
        let address = target(vec![access()]).await;
        let mut initiator = Initiator::connect(address, Offer::new(NODE, TARGET))
            .await
            .unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(1), initiator.complete()).await;
        assert!(nothing.is_err());
        let done = initiator.read(0, &cdb(0x28, 7, 1), 512).await.unwrap();
        assert_eq!(done.data, [7; 512]);
    });
}

#[test]
fn libiscsi_logs_in_and_lists_targets() {
    run(async {
        for user in ["", "n%sixteen-letters!@"] {
            let secret = || Credentials {
                user: "n".into(),
                secret: "sixteen-letters!".into(),
            };
            let chap = (!user.is_empty()).then(secret);
            let address = target(vec![Access::Allow { chap, mutual: None }]).await;
            let url = format!("iscsi://{user}{address}");
            let out = tokio::process::Command::new("iscsi-ls")
                .arg(&url)
                .output()
                .await
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(
                text.contains("Target:iqn.2026-11.x:node10 "),
                "{text} {out:?}"
            );
            assert!(text.contains("Portal:127.0.0.1:3260,1"), "{text}");
        }
    });
}
