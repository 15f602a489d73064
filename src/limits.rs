//! Every bound of the program in one place, tied together where they depend on each other.
//! Level 0: names no other room.

use std::time::Duration;

// --- iSCSI: sizes (RFC 7143; dossier of initiators in docs/protocols/iscsi.md) ---

/// The MaxRecvDataSegmentLength we declare. At least FIRST_BURST_MAX, so that EDK2's habit of sending
/// FirstBurstLength of unsolicited data after immediate data cannot overrun.
pub const TARGET_MRDSL: u32 = 256 * 1024;
/// Largest FirstBurstLength we agree to.
pub const FIRST_BURST_MAX: u32 = 256 * 1024;
/// Largest MaxBurstLength we agree to.
pub const MAX_BURST_MAX: u32 = 1024 * 1024;
/// Most R2Ts outstanding for a task.
pub const MAX_R2T: u16 = 4;
/// Text of one login or text request chain, and the data segment before MRDSL is declared (RFC 7143 6.1, 13.12).
pub const TEXT_CHAIN_MAX: usize = 8192;
/// Login requests on one connection.
pub const LOGIN_PDUS_MAX: u32 = 16;
/// Keys in one login.
pub const LOGIN_KEYS_MAX: usize = 64;
/// Commands a session may have outstanding: MaxCmdSN - ExpCmdSN + 1 when idle.
pub const COMMAND_WINDOW: u32 = 128;
/// Immediate commands (task management, NOP) outstanding beyond the window.
pub const IMMEDIATE_MAX: u32 = 8;
/// Largest data transfer of one SCSI command in bytes. EDK2 reads 65,535 blocks at once without asking.
pub const TRANSFER_MAX: u64 = 65_536 * 512;

// --- iSCSI: time ---

/// From accept to the first whole login request.
pub const FIRST_PDU_WAIT: Duration = Duration::from_secs(10);
/// From accept to the full feature phase.
pub const LOGIN_WAIT: Duration = Duration::from_secs(15);
/// A peer that accepts no byte for this long while we have some to send is gone.
pub const SEND_STALL: Duration = Duration::from_secs(60);
/// Silence after which a peer that answered pings before is asked whether it lives.
pub const PING_AFTER: Duration = Duration::from_secs(30);

// --- iSCSI: numbers of things ---

/// Sessions of one initiator name on one target; the oldest idle one goes first.
pub const SESSIONS_PER_INITIATOR: usize = 8;
/// Connections that have not logged in yet, whole server.
pub const UNAUTHENTICATED_MAX: usize = 1024;
/// Unit attentions waiting for one I_T nexus.
pub const UNIT_ATTENTIONS_MAX: usize = 16;
/// Persistent reservation registrants of one logical unit.
pub const REGISTRANTS_MAX: usize = 256;

// --- iSCSI: memory ---

/// Bytes of command data (immediate, solicited, read) that all connections may hold together.
pub const DATA_BYTES_MAX: usize = 1 << 30;
/// Bytes queued to one peer before no further read is started for it.
pub const SEND_QUEUE_BYTES: usize = 4 << 20;

// --- iSCSI: full feature phase ---

/// Bytes of the receive buffer of a quiet connection.
pub const RECEIVE_START: usize = 16 * 1024;
/// Bytes to which the receive buffer grows under load: one largest PDU always fits.
pub const RECEIVE_MAX: usize = 512 * 1024;
/// Payload that is not whole in the receive buffer goes straight to its final place from this size on.
pub const DIRECT_BYTES_MIN: u32 = 4096;
/// Bytes handed to the socket's queue before the next data PDU is made, so that urgent PDUs can pass.
pub const SEND_BATCH_BYTES: usize = 1 << 20;
/// Slices of one vectored write.
pub const SEND_BATCH_SLICES: usize = 256;
/// Urgent PDUs (NOP-In, R2T, Text, Reject) that may wait for the socket before no more input is taken.
pub const URGENT_QUEUE_MAX: usize = 256;
/// Rejects on one connection within a minute; a peer that earns more is cut off.
pub const REJECTS_PER_MINUTE: u32 = 16;
/// Memory a connection may always have, even when the whole server's budget is spent, so that it goes on.
pub const CONNECTION_RESERVE: usize = 256 * 1024;
/// Bytes of command data that one connection may hold, unless a single command needs more.
pub const CONNECTION_DATA_MAX: usize = 64 << 20;
/// How long a command may wait for memory before its initiator is told TASK SET FULL.
pub const MEMORY_WAIT: Duration = Duration::from_secs(2);
/// How long a task management function may wait for running operations before it is answered as failed.
pub const TASK_MANAGEMENT_WAIT: Duration = Duration::from_secs(10);
/// How long a login waits for the session that it replaces to end.
pub const REINSTATE_WAIT: Duration = Duration::from_secs(10);
/// How long a peer may take to answer a ping, when it answered one before.
pub const PING_WAIT: Duration = Duration::from_secs(30);
/// What a draining head grants an initiator for its Logout.
pub const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Plain writes that one I/O thread takes in one go.
pub const WRITES_PER_JOB: usize = 8;
/// Bytes that an I/O thread compares or repeats in one go.
pub const PASS_BYTES: u64 = 1 << 20;
/// How often a connection looks at its timers.
pub const TICK: Duration = Duration::from_secs(5);
/// The same while it waits for memory.
pub const TICK_STARVED: Duration = Duration::from_millis(5);
/// How long we wait for the peer to close first, once both have said all.
pub const LINGER: Duration = Duration::from_secs(2);
/// Extents in one answer to GET LBA STATUS.
pub const EXTENTS_MAX: usize = 1024;
/// Refused logins told as events in one second, whole server; the rest is only counted.
pub const REFUSALS_TOLD_PER_SECOND: u32 = 50;
/// Unsolicited bursts of ended tasks that are remembered, to swallow their rest silently.
pub const TOMBSTONES: usize = 16;

// --- store ---

/// Bytes in a chunk, the unit of content addressing in an image.
pub const CHUNK_BYTES: u64 = 64 * 1024;
/// Largest virtual disk: block numbers fit 32 bits (16 TiB).
pub const DISK_BYTES_MAX: u64 = 1 << 44;
/// I/O threads that may block.
pub const IO_THREADS: usize = 32;
/// Jobs waiting for an I/O thread.
pub const IO_QUEUE: usize = 16_384;

// --- boot services ---

/// Largest TFTP block size agreed to (RFC 2348); stays below one Ethernet frame of 1,500 bytes.
pub const TFTP_BLOCK_MAX: u16 = 1428;
/// TFTP transfers at one time.
pub const TFTP_TRANSFERS_MAX: usize = 2048;
/// A DHCP exchange by firmware after this much silence is a new boot.
pub const BOOT_QUIET: Duration = Duration::from_secs(60);

// --- events ---

/// Events kept in memory for late readers.
pub const EVENTS_KEPT: usize = 65_536;
/// Events a slow reader may lag behind before it loses some (and is told).
pub const EVENTS_LAG: usize = 8_192;

const _: () = assert!(TARGET_MRDSL >= FIRST_BURST_MAX);
const _: () = assert!(FIRST_BURST_MAX <= MAX_BURST_MAX);
const _: () = assert!(RECEIVE_MAX > TARGET_MRDSL as usize + 48 + 1020 + 16);
const _: () = assert!(
    COMMAND_WINDOW + IMMEDIATE_MAX < 512,
    "task numbers have nine bits in a TTT"
);
const _: () = assert!(CONNECTION_DATA_MAX < DATA_BYTES_MAX);
const _: () = assert!(CONNECTION_RESERVE >= FIRST_BURST_MAX as usize);
const _: () = assert!(CHUNK_BYTES.is_multiple_of(4096));
const _: () = assert!(DISK_BYTES_MAX / 4096 <= u32::MAX as u64 + 1);
const _: () = assert!(TRANSFER_MAX < DATA_BYTES_MAX as u64);
