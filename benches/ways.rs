//! Ways for bytes of the page cache, or of memory, into a socket: `cargo bench --bench ways`. What a head may choose
//! from when it answers a READ (docs/decisions/0023).
//!
//! One thread on core 1 sends answers (48 bytes of header and the data, 32 or 8 of them in one call where a way
//! allows that), another on core 0 drops what comes inside the kernel. Places are random in 512 MiB. Rounds are
//! interleaved; medians of 7 with the least and the largest, and the sender's own processor time for each answer.

#![expect(
    unsafe_code,
    reason = "mmap and SO_ZEROCOPY have no safe form; this is no part of the program"
)]

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const IMAGE: usize = 512 << 20;
const HEADER: [u8; 48] = [0x25; 48];
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
/// `MSG_ZEROCOPY` and `SO_ZEROCOPY` of Linux, which the crates at hand do not name.
const MSG_ZEROCOPY: u32 = 0x0400_0000;
const SO_ZEROCOPY: i32 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `pread` into one buffer, then one `send` of the batch.
    Copy,
    /// `writev` of headers and of the page cache through a mapping.
    Mapping,
    /// `writev` of headers and of memory of our own.
    Memory,
    /// The header by `send` with MSG_MORE, the data by `sendfile`.
    Sendfile,
    /// As `Memory`, but the kernel keeps the pages until they are sent.
    Zerocopy,
}

const WAYS: [Way; 5] = [
    Way::Copy,
    Way::Mapping,
    Way::Memory,
    Way::Sendfile,
    Way::Zerocopy,
];

struct Source {
    file: File,
    map: &'static [u8],
    memory: Vec<u8>,
}

struct Sender<'a> {
    way: Way,
    stream: TcpStream,
    source: &'a Source,
    buffer: Vec<u8>,
    random: u64,
    /// Calls whose pages the kernel has not given back yet.
    unsettled: usize,
}

impl Sender<'_> {
    fn place(&mut self, len: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let slots = IMAGE / len;
        usize::try_from(self.random >> 33).expect("31 bits") % slots * len
    }

    fn send(&mut self, len: usize, batch: usize) {
        match self.way {
            Way::Copy => {
                for n in 0..batch {
                    let at = self.place(len);
                    let out = &mut self.buffer[n * (len + 48)..(n + 1) * (len + 48)];
                    out[..48].copy_from_slice(&HEADER);
                    self.source
                        .file
                        .read_exact_at(&mut out[48..], at as u64)
                        .expect("the file is that long");
                }
                self.stream
                    .write_all(&self.buffer[..batch * (len + 48)])
                    .expect("the peer reads");
            }
            Way::Mapping => self.gather(self.source.map, len, batch, SendFlags::empty()),
            Way::Memory => self.gather(&self.source.memory, len, batch, SendFlags::empty()),
            Way::Zerocopy => {
                self.gather(
                    &self.source.memory,
                    len,
                    batch,
                    SendFlags::from_bits_retain(MSG_ZEROCOPY),
                );
                self.settle();
            }
            Way::Sendfile => {
                for _ in 0..batch {
                    let mut at = self.place(len) as u64;
                    rustix::net::send(&self.stream, &HEADER, SendFlags::MORE)
                        .expect("the peer reads");
                    let end = at + len as u64;
                    while at < end {
                        let left = usize::try_from(end - at).expect("at most len");
                        rustix::fs::sendfile(&self.stream, &self.source.file, Some(&mut at), left)
                            .expect("both are open");
                    }
                }
            }
        }
    }

    fn gather(&mut self, from: &[u8], len: usize, batch: usize, flags: SendFlags) {
        let mut slices = Vec::with_capacity(2 * batch);
        for _ in 0..batch {
            let at = self.place(len);
            slices.push(IoSlice::new(&HEADER));
            slices.push(IoSlice::new(&from[at..at + len]));
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sent = sendmsg(
                &self.stream,
                rest,
                &mut SendAncillaryBuffer::default(),
                flags,
            )
            .expect("the peer reads");
            self.unsettled += usize::from(!flags.is_empty());
            IoSlice::advance_slices(&mut rest, sent);
        }
    }

    /// Takes the kernel's word that pages are free again, as a server must before it re-uses them.
    fn settle(&mut self) {
        while self.unsettled > 0 {
            let mut space = [MaybeUninit::uninit(); 256];
            let mut words = RecvAncillaryBuffer::new(&mut space);
            match recvmsg(
                &self.stream,
                &mut [],
                &mut words,
                RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT,
            ) {
                // One word may stand for several calls: how many does not matter here.
                Ok(_) => self.unsettled = self.unsettled.saturating_sub(1),
                Err(_) if self.unsettled > 64 => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // With one core there is nothing to choose.
    let _ = sched_setaffinity(None, &set);
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).expect("not negative");
    Duration::new(seconds, u32::try_from(now.tv_nsec).expect("below a second"))
}

fn allow_zerocopy(stream: &TcpStream) {
    let one = 1i32;
    // SAFETY: the option takes an int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_ZEROCOPY,
            std::ptr::from_ref(&one).cast(),
            4,
        )
    };
    assert_eq!(done, 0, "SO_ZEROCOPY");
}

/// Answers a second, and the sender's processor time for one.
fn round(way: Way, source: &Source, (len, batch): (usize, usize)) -> (f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (other, _) = listener.accept().expect("it was called");
    stream.set_nodelay(true).expect("a TCP socket");
    if way == Way::Zerocopy {
        allow_zerocopy(&stream);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            let mut sink = vec![0; 1 << 20];
            while !over.load(Relaxed) {
                match rustix::net::recv(&other, &mut sink, RecvFlags::TRUNC) {
                    Ok((_, 0)) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        });
        pin(1);
        let mut sender = Sender {
            way,
            stream,
            source,
            buffer: vec![0; batch * (len + 48)],
            random: 1,
            unsettled: 0,
        };
        for _ in 0..50 {
            sender.send(len, batch);
        }
        let (began, before, mut sent) = (Instant::now(), cpu(), 0);
        while began.elapsed() < ROUND {
            sender.send(len, batch);
            sent += batch;
        }
        let (wall, own) = (began.elapsed(), cpu() - before);
        over.store(true, Relaxed);
        (
            sent as f64 / wall.as_secs_f64(),
            own.as_secs_f64() * 1e6 / sent as f64,
        )
    })
}

fn source() -> Source {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("image");
    let memory: Vec<u8> = (0..IMAGE)
        .map(|n| n.wrapping_mul(167).to_le_bytes()[1])
        .collect();
    std::fs::write(&path, &memory).expect("room for 512 MiB");
    let file = File::open(&path).expect("just written");
    // SAFETY: nobody changes or cuts the file, which is in a directory of our own; the mapping is never undone.
    let map = unsafe {
        let at = mmap(
            std::ptr::null_mut(),
            IMAGE,
            ProtFlags::READ,
            MapFlags::SHARED,
            &file,
            0,
        );
        std::slice::from_raw_parts(at.expect("a mapping").cast::<u8>(), IMAGE)
    };
    // Every page once, so that no round pays for the first touch.
    assert_eq!(map, memory);
    Source { file, map, memory }
}

fn median(found: &mut [(f64, f64)], figure: impl Fn(&(f64, f64)) -> f64) -> (f64, f64, f64) {
    found.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
    let at = |n: usize| found.get(n).map_or(0.0, &figure);
    (at(found.len() / 2), at(0), at(found.len() - 1))
}

fn main() {
    let source = source();
    println!("| answer | way | MiB/s (least to largest) | sender's CPU us each |");
    println!("| --- | --- | --- | --- |");
    for (len, batch) in [(4 << 10, 32), (4 << 10, 1), (24 << 10, 4), (256 << 10, 4)] {
        let mut found = WAYS.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (way, found) in WAYS.iter().zip(&mut found) {
                found.push(round(*way, &source, (len, batch)));
            }
        }
        for (way, found) in WAYS.iter().zip(&mut found) {
            let mib = len as f64 / f64::from(1 << 20);
            let (rate, least, most) = median(found, |one| one.0 * mib);
            let (own, ..) = median(found, |one| one.1);
            let kib = len >> 10;
            println!(
                "| {kib} KiB, {batch} at once | {way:?} | {rate:.0} ({least:.0} to {most:.0}) | {own:.1} |"
            );
        }
    }
}
