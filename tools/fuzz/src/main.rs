//! One program, many fuzz targets: `REVEILLE_FUZZ=login` chooses. Each target is a function from bytes to
//! nothing that panics when a promise is broken. Run by `tools/fuzz/run`; see docs/testing.md.
//!
//! Bytes are read from front to back (`Unstructured`; zeros behind the end), so that a seed can be made by
//! hand and a changed byte changes one decision.

#![no_main]

mod boot;
mod catalog_text;
mod connection;
mod disk;
mod files;
mod login;
mod names;
mod pdu;
mod scsi;
mod seeds;
mod store;
mod text;
mod volume;

use std::alloc::System;
use std::sync::OnceLock;

use cap::Cap;
use libfuzzer_sys::fuzz_target;

/// Counts what is held, and refuses what a target may not hold: the failed allocation ends the program.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// A target, its name, and the bytes that one run may hold beyond its input.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    heap_bytes_max: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), heap_bytes_max: usize) -> Target {
    Target {
        name,
        run,
        heap_bytes_max,
    }
}

/// `tools/fuzz/run` has the same names.
static TARGETS: &[Target] = &[
    target("pdu", pdu::run, 8 << 20),
    target("text", text::run, 4 << 20),
    target("login", login::run, 4 << 20),
    target("client", login::client, 4 << 20),
    target("scsi", scsi::run, 16 << 20),
    target("connection", connection::run, 64 << 20),
    target("dhcp", boot::dhcp, 16 << 20),
    target("tftp", boot::tftp, 8 << 20),
    target("http", boot::http, 32 << 20),
    target("names", names::run, 96 << 20),
    target("disk", disk::run, 48 << 20),
    target("store", store::run, 64 << 20),
    target("files", files::run, 128 << 20),
    target("catalog_text", catalog_text::run, 64 << 20),
    // Not a target: writes the seeds.
    target("seeds", seeds::run, 64 << 20),
];

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        // To tell what is wrong takes memory of its own.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = HEAP.set_limit(usize::MAX);
            tell(info);
        }));
        let name = std::env::var("REVEILLE_FUZZ").unwrap_or_default();
        let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        let found = TARGETS.iter().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("REVEILLE_FUZZ names a target: {}", names.join(", ")))
    })
}

/// True when a single input is replayed (`tools/fuzz/run --replay`): conversations are then printed.
pub(crate) fn is_replay() -> bool {
    static REPLAY: OnceLock<bool> = OnceLock::new();
    *REPLAY.get_or_init(|| std::env::var_os("REVEILLE_REPLAY").is_some())
}

fuzz_target!(|data: &[u8]| {
    let target = chosen();
    let budget = HEAP.allocated().saturating_add(target.heap_bytes_max);
    // Never fails: the new limit is above what is held.
    let _ = HEAP.set_limit(budget);
    (target.run)(data);
    let _ = HEAP.set_limit(usize::MAX);
});
