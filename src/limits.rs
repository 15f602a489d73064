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

// --- boot services ---

/// Largest TFTP block size agreed to (RFC 2348); stays below one Ethernet frame of 1,500 bytes.
pub const TFTP_BLOCK_MAX: u16 = 1428;
/// TFTP transfers at one time.
pub const TFTP_TRANSFERS_MAX: usize = 2048;
/// A DHCP exchange by firmware after this much silence is a new boot.
pub const BOOT_QUIET: Duration = Duration::from_secs(60);
/// Firmware that asks again this long after its boot script was served has been started anew.
pub const BOOT_RESTART: Duration = Duration::from_secs(1);
/// A boot script with a secret is answered this long after the machine was last heard.
pub const SCRIPT_WINDOW: Duration = Duration::from_secs(600);
/// iPXE that asks this soon after a loader was fetched is that loader.
pub const LOADER_FRESH: Duration = Duration::from_secs(60);
/// Loaders offered to iPXE in one boot before it gets the script as it is; ends a chain that goes in circles.
pub const LOADER_CHAIN_MAX: u8 = 6;
/// Machines remembered by boot services; the one not heard longest goes first, strangers before nodes.
pub const BOOT_CONTEXTS_MAX: usize = 65_536;
/// A machine in the queue is told of in events at most this often, while its place changes.
pub const QUEUED_EVERY: Duration = Duration::from_secs(10);
/// The same DHCP answer to the same machine is told of in events at most this often.
pub const DHCP_EVENT_EVERY: Duration = Duration::from_secs(10);
/// An unknown machine is written down at most this often.
pub const PENDING_EVERY: Duration = Duration::from_secs(60);
/// Unknown machines written down in one second, whole server.
pub const PENDING_PER_SECOND: u32 = 20;
/// Notes about unknown machines waiting to be written.
pub const PENDING_QUEUE: usize = 256;
/// Addresses in a DHCP range.
pub const LEASE_RANGE_MAX: u32 = 1 << 20;
/// Time of a lease of a node: its disk hangs on its address.
pub const LEASE_NODE: Duration = Duration::from_secs(24 * 3600);
/// Time of a lease of a machine that is nobody's node.
pub const LEASE_STRANGER: Duration = Duration::from_secs(600);
/// An address that was offered is kept this long for the answer.
pub const LEASE_OFFER: Duration = Duration::from_secs(60);
/// An address that a client found in use is not given out for this long.
pub const LEASE_DECLINED: Duration = Duration::from_secs(600);
/// How old the list of fixed addresses may be when an address is chosen.
pub const LEASE_FIXED_AGE: Duration = Duration::from_secs(1);
/// Largest DHCP message read; a larger one is cut, and with it refused.
pub const DHCP_MESSAGE_MAX: usize = 4096;
/// A PXE client that has been asking for this many seconds is answered even when loaders are busy:
/// its retry schedule of 4, 8, 16 and 32 seconds (PXE 2.1, 2.2.4) would soon end.
pub const PXE_PATIENCE_S: u16 = 24;
/// Transfers of loaders under way beyond which new PXE clients are asked to wait by silence.
pub const LOADERS_BUSY: usize = TFTP_TRANSFERS_MAX / 4 * 3;
/// Blocks of a TFTP window (RFC 7440) we agree to.
pub const TFTP_WINDOW_MAX: u16 = 16;
/// TFTP transfers of one address at one time.
pub const TFTP_PER_CLIENT: usize = 8;
/// First wait for a TFTP acknowledgement when the client names none; doubles with each repetition.
pub const TFTP_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a TFTP acknowledgement.
pub const TFTP_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// Repetitions without progress before a TFTP transfer is given up.
pub const TFTP_RETRIES: u32 = 7;
/// Largest TFTP request read (RFC 2347: 512 octets).
pub const TFTP_REQUEST_MAX: usize = 512;
/// Largest loader file taken into memory.
pub const LOADER_BYTES_MAX: u64 = 32 << 20;
/// Loader files taken into memory.
pub const LOADER_FILES_MAX: usize = 64;
/// HTTP connections of boot services at one time; further ones wait in the kernel's queue.
pub const BOOT_HTTP_MAX: usize = 4096;
/// HTTP connections of one address at one time; further ones are closed at once.
pub const BOOT_HTTP_PER_CLIENT: usize = 32;
/// Longest life of an HTTP connection of boot services, however busy it looks.
pub const BOOT_HTTP_LIFE: Duration = Duration::from_secs(600);
/// The same warning about addresses is written at most this often.
pub const BOOT_WARN_EVERY: Duration = Duration::from_secs(10);
/// An HTTP connection of boot services that moves no byte for this long is closed.
pub const BOOT_HTTP_IDLE: Duration = Duration::from_secs(30);
/// Receive buffer asked for each boot service's UDP socket: a storm of 1,000 nodes in one moment fits.
pub const BOOT_SOCKET_BYTES: usize = 4 << 20;

// --- events ---

/// Events kept in memory for late readers.
pub const EVENTS_KEPT: usize = 65_536;
/// Events a slow reader may lag behind before it loses some (and is told).
pub const EVENTS_LAG: usize = 8_192;

const _: () = assert!(LOADERS_BUSY < TFTP_TRANSFERS_MAX);
const _: () = assert!(LOADER_FRESH.as_secs() <= BOOT_QUIET.as_secs());
const _: () = assert!(TARGET_MRDSL >= FIRST_BURST_MAX);
const _: () = assert!(FIRST_BURST_MAX <= MAX_BURST_MAX);
const _: () = assert!(CHUNK_BYTES.is_multiple_of(4096));
const _: () = assert!(DISK_BYTES_MAX / 4096 <= u32::MAX as u64 + 1);
const _: () = assert!(TRANSFER_MAX < DATA_BYTES_MAX as u64);
