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

// --- store ---

/// Bytes in a chunk, the unit of content addressing in an image.
pub const CHUNK_BYTES: u64 = 64 * 1024;
/// Largest virtual disk: block numbers fit 32 bits (16 TiB).
pub const DISK_BYTES_MAX: u64 = 1 << 44;
/// I/O threads that may block.
pub const IO_THREADS: usize = 32;
/// Jobs waiting for an I/O thread.
pub const IO_QUEUE: usize = 16_384;

// --- store: layers ---

/// Journal of the layers: a checkpoint is due when it is this long.
pub const LAYER_JOURNAL_BYTES: u64 = 32 << 20;
/// Bytes of the journal written with zeros ahead, so that most appends do not change its size.
pub const LAYER_JOURNAL_STEP: u64 = 1 << 20;
/// Soft log: it is rewritten when it has grown by this much beyond twice what it was rewritten to.
pub const LAYER_SOFT_BYTES: u64 = 16 << 20;
/// Payload of one frame of a log after which the next frame begins.
pub const LAYER_FRAME_BYTES: usize = 1 << 20;
/// Longest log that is read.
pub const LAYER_LOG_BYTES_MAX: u64 = 4 << 30;
/// Data files of layers kept open; beyond it idle clean ones are closed. The process's limit of open
/// files must be above this plus its connections.
pub const LAYER_FILES_OPEN: usize = 8192;
/// Open files looked at for closing when one more is opened beyond the limit.
pub const LAYER_FILES_LOOKED: usize = 64;
/// Blocks of an UNMAP whose space is given back to the file system: shorter runs cost more than they free.
pub const LAYER_PUNCH_BLOCKS: u64 = 16;

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
const _: () = assert!(CHUNK_BYTES.is_multiple_of(4096));
const _: () = assert!(DISK_BYTES_MAX / 4096 <= u32::MAX as u64 + 1);
const _: () = assert!(TRANSFER_MAX < DATA_BYTES_MAX as u64);
