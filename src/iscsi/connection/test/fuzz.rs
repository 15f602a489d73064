//! A model fuzz: whatever comes, the machine does not panic, StatSN is in order, MaxCmdSN never goes back,
//! every tag is answered at most once and never after its abort was confirmed (all checked by the peer),
//! and when it is quiet nothing is held.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Move {
    Command {
        itt: u32,
        flags: u8,
        opcode: u8,
        sectors: u16,
        edtl: u32,
        immediate: u16,
    },
    /// Answers the n-th open R2T, right or a little wrong.
    Data {
        which: usize,
        twist: u8,
    },
    Manage {
        itt: u32,
        function: u8,
        task: u32,
    },
    Raw {
        bytes: Vec<u8>,
        data: u16,
    },
    Run,
    Grant,
    Socket(bool),
    Other,
    Tick,
}

fn moves() -> impl Strategy<Value = Move> {
    let itt = 0..24u32;
    let opcode = prop::sample::select(vec![0x28u8, 0x2a, 0x2a, 0x12, 0x00, 0x35, 0xee]);
    let edtl = prop_oneof![
        Just(0u32),
        Just(200),
        (0..80u32).prop_map(|n| n * 512),
        any::<u32>()
    ];
    let command = (itt.clone(), any::<u8>(), opcode, 0..80u16, edtl, 0..9000u16).prop_map(
        |(itt, flags, opcode, sectors, edtl, immediate)| Move::Command {
            itt,
            flags,
            opcode,
            sectors,
            edtl,
            immediate,
        },
    );
    prop_oneof![
        6 => command,
        6 => (any::<usize>(), 0..12u8).prop_map(|(which, twist)| Move::Data { which, twist }),
        2 => (itt.clone(), 0..14u8, itt)
            .prop_map(|(itt, function, task)| Move::Manage { itt, function, task }),
        1 => (prop::collection::vec(any::<u8>(), 48), 0..2000u16)
            .prop_map(|(bytes, data)| Move::Raw { bytes, data }),
        3 => Just(Move::Run),
        2 => Just(Move::Grant),
        1 => any::<bool>().prop_map(Move::Socket),
        1 => Just(Move::Other),
        1 => Just(Move::Tick),
    ]
}

fn flow(flags: u8, opcode: u8) -> u8 {
    // Mostly the flags that belong to the command, sometimes others.
    match (flags % 8, opcode) {
        (0, _) => flags & 0xe7,
        (1, 0x2a) => 0x20,
        (_, 0x2a) => 0xa0 | flags & 0x03,
        _ => 0xc0 | flags & 0x03,
    }
}

struct Fuzz {
    peer: Peer,
    r2ts: Vec<Bhs>,
    /// ABORT TASK requests and the tags they named, unless the tag was used again since.
    aborts: HashMap<u32, u32>,
    rounds: u64,
}

impl Fuzz {
    fn step(&mut self, step: Move) {
        let peer = &mut self.peer;
        match step {
            Move::Command {
                itt,
                flags,
                opcode,
                sectors,
                edtl,
                immediate,
            } => {
                peer.dead.remove(&itt);
                self.aborts.retain(|_, task| *task != itt);
                let flags = flow(flags, opcode);
                let bhs = command(itt, flags, edtl, opcode, 0, sectors);
                let immediate = if flags & 0x20 == 0 { 0 } else { immediate };
                let len = u32::from(immediate).min(edtl) as usize;
                peer.send(bhs, &vec![1; len]);
            }
            Move::Data { which, twist } => self.data(which, twist),
            Move::Manage {
                itt,
                function,
                task,
            } => {
                self.aborts.remove(&(itt + 1000));
                if function == 1 {
                    self.aborts.insert(itt + 1000, task);
                }
                peer.manage(itt + 1000, function, task);
            }
            Move::Raw { bytes, data } => {
                let mut bhs = Bhs(bytes.try_into().expect("48 bytes were made"));
                bhs.put_u8(4, 0);
                peer.dead.clear();
                self.aborts.clear();
                peer.send_raw(&bhs, &vec![3; usize::from(data)]);
            }
            Move::Run => {
                peer.run_all();
                peer.pump();
            }
            Move::Grant => peer.grant_all(),
            Move::Socket(full) => {
                peer.socket_full = full;
                peer.pump();
            }
            Move::Other => {
                let event = Event::ClearedByOther {
                    tell: self.rounds.is_multiple_of(2),
                    lun: None,
                    ticket: self.rounds,
                };
                peer.conn.apply(event, peer.now);
                peer.pump();
            }
            Move::Tick => peer.tick(1),
        }
        self.look();
    }

    /// Answers an R2T, mostly right, sometimes with one thing wrong.
    fn data(&mut self, which: usize, twist: u8) {
        if self.r2ts.is_empty() {
            return;
        }
        let r2t = self.r2ts.swap_remove(which % self.r2ts.len());
        let (itt, tag) = (r2t.itt(), r2t.u32_at(20));
        let (offset, len) = (r2t.u32_at(40), r2t.u32_at(44));
        let data = vec![2; len as usize];
        let peer = &mut self.peer;
        match twist {
            0 => peer.data_out(itt, tag, 1, offset, true, &data),
            1 => peer.data_out(itt, tag, 0, offset ^ 512, true, &data),
            2 => peer.data_out(itt, tag ^ 1, 0, offset, true, &data),
            3 => peer.data_out(itt ^ 1, tag, 0, offset, true, &data),
            4 => peer.data_out(itt, RESERVED_TAG, 0, offset, true, &data),
            _ => peer.data_out(itt, tag, 0, offset, true, &data),
        }
    }

    /// Reads what came; an aborted tag must stay silent from its confirmation on.
    fn look(&mut self) {
        self.rounds += 1;
        self.peer.cmd_sn = self.peer.conn.numbers.exp_cmd_sn().0;
        while let Some(pdu) = self.peer.inbox.pop_front() {
            if pdu.header.opcode() == op::R2T {
                self.r2ts.push(pdu.header);
            }
            let done =
                (pdu.header.opcode(), pdu.header.u8_at(2)) == (op::TASK_MANAGEMENT_RESPONSE, 0);
            if let Some(task) = self.aborts.remove(&pdu.header.itt()).filter(|_| done) {
                self.peer.dead.insert(task);
            }
        }
    }

    /// Lets everything end.
    fn drain(&mut self) {
        self.peer.socket_full = false;
        for _ in 0..4 {
            self.peer.run_all();
            self.peer.grant_all();
            self.peer.pump();
            self.look();
        }
        let event = Event::ClearedByOther {
            tell: false,
            lun: None,
            ticket: u64::MAX,
        };
        self.peer.conn.apply(event, self.peer.now);
        self.peer.run_all();
        self.peer.pump();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_breaks_the_machine(
        script in prop::collection::vec(moves(), 1..80),
        initial_r2t in any::<bool>(),
        hold in any::<(bool, bool)>(),
    ) {
        let mut peer = Peer::with(options(Negotiated {
            initial_r2t,
            max_outstanding_r2t: 2,
            ..agreed()
        }));
        peer.hold_runs = hold.0;
        peer.hold_memory = hold.1;
        let mut fuzz = Fuzz { peer, r2ts: Vec::new(), aborts: HashMap::new(), rounds: 0 };
        for step in script {
            fuzz.step(step);
        }
        fuzz.drain();
        let conn = &fuzz.peer.conn;
        if fuzz.peer.closed.is_none() {
            prop_assert_eq!(conn.open_tasks(), 0);
            prop_assert_eq!((conn.memory(), conn.backlog), (0, 0));
            prop_assert_eq!((conn.active, conn.ordered_active), (0, false));
            prop_assert_eq!(conn.immediates, 0);
            prop_assert!(fuzz.peer.cleared.contains(&u64::MAX));
            let free = conn.numbers.max_cmd_sn().steps_from(conn.numbers.exp_cmd_sn());
            prop_assert_eq!(free, limits::COMMAND_WINDOW - 1);
        }
    }
}
