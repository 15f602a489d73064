//! Every bound of the program in one place, tied together where they depend on each other.
//! Level 0: names no other room.

use std::net::Ipv4Addr;
use std::time::Duration;

// --- iSCSI: sizes (RFC 7143; what initiators demand: docs/protocols/iscsi.md) ---

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
/// Text of one answer to SendTargets: about 10,000 targets with one portal each.
pub const SEND_TARGETS_BYTES_MAX: usize = 1 << 20;
/// Redirections our own initiator follows in one login.
pub const REDIRECTS_MAX: u32 = 4;
/// Bytes our own initiator reads from its socket at once.
pub const INITIATOR_READ_BYTES: usize = 256 * 1024;
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
/// Connections that have not logged in yet, whole server: a boot storm of that many nodes in one moment.
pub const UNAUTHENTICATED_MAX: usize = 4096;
/// The same of one address: a quarter, so that no single machine takes all places. Beyond it its own oldest goes.
pub const UNAUTHENTICATED_PER_ADDRESS: usize = 1024;
/// A connection may be this old before another address's newcomer may push it out when all places are taken:
/// a node on a good network has logged in by then.
pub const NEWCOMER_GRACE: Duration = Duration::from_secs(1);
/// Connections in the full feature phase, whole server. With the floor below they fit the memory budget.
pub const SESSIONS_MAX: usize = 16_384;
/// Sessions on one target, whatever initiators they name; the longest quiet one goes first.
pub const SESSIONS_PER_TARGET: usize = 64;
/// Discovery sessions, whole server: each may hold a list of all targets.
pub const DISCOVERY_MAX: usize = 128;
/// Discovery sessions of one address.
pub const DISCOVERY_PER_ADDRESS: usize = 8;
/// A discovery session that asks nothing for this long is closed.
pub const DISCOVERY_IDLE: Duration = Duration::from_secs(60);
/// Task management functions of one connection that wait; further ones are answered "function rejected".
pub const MANAGEMENT_MAX: usize = 16;
/// Answers that wait for the socket before no more input is taken: all tasks and as many management functions.
pub const ANSWERS_MAX: usize = 512;
/// Unit attentions waiting for one I_T nexus.
pub const UNIT_ATTENTIONS_MAX: usize = 16;
/// Persistent reservation registrants of one logical unit.
pub const REGISTRANTS_MAX: usize = 256;
/// Bytes of a PERSISTENT RESERVE OUT parameter list: as many TransportIDs as there may be registrants.
pub const RESERVE_LIST_BYTES_MAX: usize = 28 + REGISTRANTS_MAX * 252;

// --- SCSI: what one command may ask (VPD B0 tells the initiators; SBC-3 6.6.4) ---

/// I_T nexuses (sessions) of one logical unit; further ones are answered BUSY.
pub const NEXUSES_MAX: usize = 1024;
/// Largest transfer we advise, in blocks of 512 bytes; up to TRANSFER_MAX is served all the same.
pub const TRANSFER_BLOCKS_ADVISED: u32 = 8192;
/// Blocks of one COMPARE AND WRITE.
pub const COMPARE_AND_WRITE_BLOCKS_MAX: u64 = 255;
/// Blocks that one UNMAP may free, over all its descriptors.
pub const UNMAP_BLOCKS_MAX: u32 = 1024 * 1024;
/// Descriptors of one UNMAP.
pub const UNMAP_DESCRIPTORS_MAX: u16 = 256;
/// Blocks of one WRITE SAME: 1 GiB. Zeros cost no time; another pattern is written in passes.
pub const WRITE_SAME_BLOCKS_MAX: u32 = 2 * 1024 * 1024;
/// Bytes of one atomic write: what the layers' journal takes as one redo record.
pub const ATOMIC_BYTES_MAX: u64 = ATOMIC_BLOCKS_MAX as u64 * 512;
/// The same in blocks, for VPD B0 and WRITE ATOMIC(16).
pub const ATOMIC_BLOCKS_MAX: u32 = 256;
const _: () = assert!(ATOMIC_BYTES_MAX < LAYER_FRAME_BYTES as u64 / 2);
/// Target descriptors of one EXTENDED COPY.
pub const COPY_TARGETS_MAX: u16 = 8;
/// Segment descriptors of one EXTENDED COPY.
pub const COPY_SEGMENTS_MAX: u16 = 16;
/// Results of EXTENDED COPY that one logical unit holds for RECEIVE COPY STATUS; the oldest goes first.
pub const COPY_RESULTS_KEPT: usize = 64;
/// Copies that one logical unit runs at a time; further ones are answered BUSY.
pub const COPIES_MAX: u8 = 8;
/// Bytes that a SANITIZE OVERWRITE writes in a second, so that nodes which boot keep the medium.
pub const SANITIZE_BYTES_PER_SECOND: u64 = 64 << 20;
/// How long a SANITIZE waits for a place in a full queue before it tries again.
pub const SANITIZE_RETRY: Duration = Duration::from_millis(50);
/// Extents that one GET LBA STATUS looks up.
pub const EXTENTS_MAX: u32 = 256;
/// Bytes of the disk that one GET LBA STATUS looks over, so that a wide empty disk cannot make it long.
pub const EXTENT_BYTES_MAX: u64 = 1 << 32;

// --- iSCSI: memory ---

/// Bytes that all connections may hold together: command data (immediate, solicited, read), grown receive
/// buffers, echoes on their way. Nothing is taken beyond it.
pub const DATA_BYTES_MAX: usize = 1 << 30;
/// The least that this may be set to.
pub const DATA_BYTES_MIN: usize = 128 << 20;
/// The part of it that is shared out on demand; the rest is kept for small commands of everyone.
pub const DATA_BYTES_COMMON: usize = DATA_BYTES_MAX / 2;
/// Bytes that the sessions of one node may hold together.
pub const DATA_BYTES_PER_NODE: usize = 256 << 20;
/// What a connection may hold even when all else is spent: firmware and a file system's journal go on.
pub const CONNECTION_FLOOR: usize = 16 * 1024;
/// Bytes queued to one peer before no further read is started for it.
pub const SEND_QUEUE_BYTES: usize = 4 << 20;

// --- iSCSI: full feature phase ---

/// How long the door waits for the first words of a new session, to hand both over together; at most twice as long.
pub const FIRST_WORDS_WAIT: Duration = Duration::from_millis(5);
/// How long a worker looks at its sockets again after an answer, before it sleeps. Whoever has to
/// be woken by the answer asks again some 50 to 100 microseconds after it.
pub const VIGIL: Duration = Duration::from_micros(100);
/// A worker that looks and does not run for so long is in the way of others: a look takes about a microsecond.
pub const VIGIL_DISTURBED: Duration = Duration::from_micros(50);
/// Then it sleeps this many times as long as it did not run, at least.
pub const VIGIL_REST: u32 = 16;
/// After so many vigils in vain, one for each `2 ^ VIGILS_IN_VAIN` answers is left.
pub const VIGILS_IN_VAIN: u32 = 6;
/// Receive buffer of a connection that has not logged in, bytes: most login requests are read in one call.
pub const RECEIVE_STRANGER: usize = 1024;
/// Bytes of the receive buffer with which a connection begins to read; while it has nothing to read it has none.
pub const RECEIVE_START: usize = 16 * 1024;
/// Bytes to which the receive buffer grows under load: one largest PDU always fits.
pub const RECEIVE_MAX: usize = 512 * 1024;
/// Bytes of receive buffers that a worker keeps for whoever reads next.
pub const RECEIVE_SPARE_BYTES: usize = 2 * RECEIVE_MAX;
/// Payload that is not whole in the receive buffer goes straight to its final place from this size on.
pub const DIRECT_BYTES_MIN: u32 = 4096;
/// Bytes handed to the socket's queue before the next data PDU is made, so that urgent PDUs can pass.
pub const SEND_BATCH_BYTES: usize = 1 << 20;
/// Slices of one vectored write.
pub const SEND_BATCH_SLICES: usize = 256;
/// The same where few PDUs wait.
pub const SEND_SHORT_SLICES: usize = 16;
/// Urgent PDUs (NOP-In, R2T, Text, Reject) that may wait for the socket before no more input is taken.
pub const URGENT_QUEUE_MAX: usize = 256;
/// Rejects on one connection within a minute; a peer that earns more is cut off.
pub const REJECTS_PER_MINUTE: u32 = 16;
/// Memory a connection may have when the common part of the budget is spent, so that it goes on.
pub const CONNECTION_RESERVE: usize = 256 * 1024;
/// Bytes of short answers (echoes, rejects, text) and of the books about PDUs that wait for the socket, before
/// no more input is taken.
pub const CONTROL_BYTES_MAX: usize = 512 * 1024;
/// A busy connection gives way to others of its worker after this long, and waits for its turn.
pub const POLL_SLICE: Duration = Duration::from_micros(50);
/// Bytes taken from a socket by one call into the receive buffer: the call itself must not outlast the slice. A burst
/// of 31 small writes is one call.
pub const READ_BYTES_MAX: usize = 128 * 1024;
/// PDUs taken between two looks at the clock.
pub const PDUS_PER_LOOK: u32 = 16;
/// Bytes of command data that one connection may hold, unless a single command needs more.
pub const CONNECTION_DATA_MAX: usize = 64 << 20;
/// How long a command may wait for memory before its initiator is told TASK SET FULL.
pub const MEMORY_WAIT: Duration = Duration::from_secs(2);
/// How long a task management function may wait for running operations before it is answered as failed.
pub const TASK_MANAGEMENT_WAIT: Duration = Duration::from_secs(10);
/// Failed attempts to log in of one address that cost it nothing; further ones come at FAILURE_EVERY.
pub const FAILURE_BURST: u32 = 64;
/// One failed attempt of an address in this time; beyond it its connections are turned away at the door.
pub const FAILURE_EVERY: Duration = Duration::from_millis(50);
/// Addresses whose failures are remembered; beyond them the one that is soonest forgiven goes.
pub const FAILURE_SOURCES_MAX: usize = 8192;
/// The answer to the first wrong secret waits this long, doubled with each further one. A right secret never
/// waits: the right node cannot be locked out.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(125);
/// Longest such wait; well below LOGIN_WAIT, so that the answer still comes.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(4);
/// Wrong secrets are forgotten after this much peace.
pub const BACK_OFF_FORGET: Duration = Duration::from_secs(300);
/// Pairs of address and initiator name whose wrong secrets are remembered; the oldest goes first.
pub const BACK_OFF_SOURCES_MAX: usize = 4096;
/// Logins to one node that need not wait: a boot, its operating system, and a tool that tries all it can.
pub const ENTRY_BURST: u32 = 64;
/// Further logins to one node come at most this often: each attaches a disk and is told to all who listen.
pub const ENTRY_EVERY: Duration = Duration::from_millis(20);
/// How long a login waits for the session that it replaces to end.
pub const REINSTATE_WAIT: Duration = Duration::from_secs(10);
/// How long a login waits for other sessions of the node whose connections their peer has closed.
pub const LEFT_BEHIND_WAIT: Duration = Duration::from_secs(1);
/// How long a peer may take to answer a ping, when it answered one before.
pub const PING_WAIT: Duration = Duration::from_secs(30);
/// What a draining head grants an initiator for its Logout.
pub const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// How long commands under way may take to finish on a connection that gets no new ones, before it is closed
/// all the same: at the end of a drain, and when the head stops.
pub const DRY_WAIT: Duration = Duration::from_secs(8);
/// Initiators of one target whose moves between addresses are remembered, to find two machines with one name.
pub const MOVES_REMEMBERED: usize = 8;
/// Nodes named one by one in orders to drain.
pub const DRAINED_MAX: usize = NODES_MAX;
/// Plain writes that one I/O thread takes in one go: waking it costs more than a small write.
pub const WRITES_PER_JOB: usize = 64;
/// Bytes of them, beyond the last one: large writes are spread over threads.
pub const WRITE_BYTES_PER_JOB: u64 = 256 * 1024;
/// So many plain writes that come together while no job of their connection is at work are two jobs.
pub const WRITES_SPLIT_MIN: usize = 16;
/// Bytes that an I/O thread compares or repeats in one go.
pub const PASS_BYTES: u64 = 1 << 20;
/// How often a connection looks at its timers.
pub const TICK: Duration = Duration::from_secs(5);
/// The same while it waits for memory.
pub const TICK_STARVED: Duration = Duration::from_millis(5);
/// How long we wait for the peer to close first, once both have said all.
pub const LINGER: Duration = Duration::from_secs(2);
/// Refusals told as events and log lines in one second, whole server; the rest is only counted.
pub const REFUSALS_TOLD_PER_SECOND: u32 = 50;
/// The same refusal of the same source is told once, then at most this often, with a count.
pub const REFUSAL_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Sources whose refusals are counted apart; beyond them they are told as one.
pub const REFUSAL_SOURCES_MAX: usize = 1024;
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

// --- images ---

/// Bytes of a pack file; a full pack is never written again.
pub const PACK_BYTES_MAX: u64 = 1 << 30;
/// [`CHUNK_BYTES`] as a length in memory.
#[expect(clippy::cast_possible_truncation, reason = "64 KiB, known here")]
pub const CHUNK_LEN: usize = CHUNK_BYTES as usize;
/// Golden chunks are held in this part of the memory, unless the configuration says how much.
pub const IMAGE_MEMORY_PART: u64 = 4;
/// Visits of the hand that looks for a held chunk that nobody reads, for one chunk that is to be held.
pub const HOT_LOOKS_MAX: usize = 64;
/// Every so manyth read of a pack that the page cache serves has its chunk held from then on.
pub const HOT_READS_PER_LOOK: u32 = 16;
/// Chunks of a pack.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
pub const PACK_SLOTS: u32 = (PACK_BYTES_MAX / CHUNK_BYTES) as u32;
/// Largest number of a pack: its name has eight digits.
pub const PACK_NUMBER_MAX: u32 = 99_999_999;
/// Largest manifest: header, one bit a chunk, one entry of 40 bytes for each chunk with data.
pub const MANIFEST_BYTES_MAX: u64 =
    64 + DISK_BYTES_MAX / CHUNK_BYTES / 8 + DISK_BYTES_MAX / CHUNK_BYTES * 40;
/// Neighbouring chunks that are read from a pack by one call.
pub const IMAGE_RUN_CHUNKS: usize = 16;
/// Places of packs that are remembered as bad; a medium with more is to be replaced, not mended.
pub const BAD_PLACES_MAX: usize = 65_536;
/// Findings about bad places that wait to be told.
pub const BAD_NEWS_MAX: usize = 1024;
/// Chunks of a boot profile (4 GiB of disk); those that fewest boots read are left out.
pub const PROFILE_CHUNKS_MAX: usize = 65_536;
/// Largest disk whose boots are recorded, in chunks (4 TiB): one bit each is held per recording.
pub const PROFILE_DISK_CHUNKS_MAX: usize = 1 << 26;
/// Boots of a version that are recorded by themselves.
pub const PROFILE_BOOTS: u32 = 8;
/// Boots of one version that are recorded at one time.
pub const PROFILE_AT_ONCE: usize = 4;
/// Boots at which older ones begin to count half.
pub const PROFILE_BOOTS_WEIGHED: u32 = 16;
/// A boot that is not ready after this long is no example.
pub const PROFILE_RECORD_MAX: Duration = Duration::from_secs(1200);
/// Reads that bring chunks in ahead of demand, at one time; the I/O threads are many more.
pub const PREFETCH_READS: usize = 2;
/// A version whose chunks were brought in is not looked at again for this long, however many nodes begin to boot.
pub const PREFETCH_AGAIN: Duration = Duration::from_secs(20);
/// Versions waiting to be brought in.
pub const PREFETCH_QUEUE: usize = 256;
/// How often the chunks that are to stay in memory are looked at.
pub const PIN_EVERY: Duration = Duration::from_secs(30);
/// Memory that is kept warm for boot profiles.
pub const PIN_BYTES: u64 = 1 << 30;
/// A scrub of all images begins this long after the last one ended.
pub const SCRUB_EVERY: Duration = Duration::from_secs(30 * 86_400);
/// Bytes that the scrub reads in a second.
pub const SCRUB_RATE: u64 = 16 << 20;
/// Packs whose chunks the scrub lists at one time: 1,048,576 chunks at most.
pub const SCRUB_PACKS: u32 = 64;
/// Bytes between two notes of how far the scrub is.
pub const SCRUB_NOTE_BYTES: u64 = 1 << 30;
/// A node that began to boot and is not ready holds up the scrub for this long at most.
pub const SCRUB_YIELDS: Duration = Duration::from_secs(600);
/// Nodes that are booting, as the scrub counts them.
pub const SCRUB_BOOTING_MAX: usize = NODES_MAX;
/// Chunks of one finding that are named one by one.
pub const BAD_NAMED_MAX: usize = 16;
/// Chunks that an import reads and hashes as one batch.
pub const IMPORT_BATCH_CHUNKS: usize = 16;
/// Batches between the reading and the writing end of an import; bounds its memory.
pub const IMPORT_BATCHES: usize = 8;
/// Steps (batches, runs of zeros) an import may hold before the oldest must be written.
pub const IMPORT_STEPS: usize = 64;
/// Threads that hash during an import.
pub const IMPORT_HASH_THREADS: usize = 2;
/// Bytes of a qcow2 L1 table (the bound that QEMU has too).
pub const QCOW2_L1_BYTES_MAX: u64 = 32 << 20;
/// Bytes of a qcow2 refcount table (the bound that QEMU has too).
pub const QCOW2_REFTABLE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a mapping table that are in memory at a time.
pub const IMPORT_TABLE_PAGE: u64 = 64 * 1024;
/// Files in a chain of differencing disks.
pub const IMPORT_CHAIN_MAX: usize = 64;
/// Pieces of a disk that are put together to one extent by one call.
pub const IMPORT_PIECES_MERGED: usize = 1024;
/// Bytes of a parent's name in a disk file.
pub const IMPORT_NAME_BYTES_MAX: u64 = 8192;
/// Bytes of a VHD's block table: more than 2 TiB in blocks of 2 MiB need.
pub const VHD_BAT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a VHD's block; usual are 512 KiB and 2 MiB.
pub const VHD_BLOCK_BYTES_MAX: u64 = 256 << 20;
/// Bytes of one metadata item of a VHDX.
pub const VHDX_ITEM_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a VMDK's grain; usual are 64 KiB.
pub const VMDK_GRAIN_BYTES_MAX: u64 = 1 << 20;
/// Entries of a VMDK's grain table (the bound that QEMU has too).
pub const VMDK_TABLE_ENTRIES_MAX: u64 = 512;
/// Bytes of a VMDK's grain directory.
pub const VMDK_DIRECTORY_BYTES_MAX: u64 = 32 << 20;
/// Bytes of the text that describes a VMDK.
pub const VMDK_TEXT_BYTES_MAX: u64 = 1 << 20;
/// Extents of a VMDK: each is an open file. Split disks have one for each 2 GiB.
pub const VMDK_EXTENTS_MAX: usize = 512;
/// Memory of a decoder of a compressed disk, in KiB: what `xz -9` and `zstd --ultra --long` need.
pub const UNPACK_MEMORY_KIB: u32 = if cfg!(fuzzing) { 4 << 10 } else { 160 << 10 };
/// First bytes of a compressed disk that are kept, for its partition table.
pub const UNPACK_HEAD_BYTES: usize = 1 << 20;
/// Largest disk in a VHD file: sector numbers of 32 bits (2,040 GiB, as Hyper-V has it).
pub const VHD_DISK_BYTES_MAX: u64 = 2040 << 30;
/// Entries of a GUID partition table that are looked at.
pub const GPT_ENTRIES_MAX: u32 = 1024;
/// Logical partitions of an MBR that are looked at.
pub const MBR_LOGICAL_MAX: u32 = 64;
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
/// Data files of layers kept open; beyond it others are closed, the longest open first. The process's limit of open
/// files must be above this plus its connections.
pub const LAYER_FILES_OPEN: usize = 8192;
/// How often files that nobody used since are closed.
pub const LAYER_IDLE_LOOK: Duration = Duration::from_secs(30);
/// Open files looked at for closing when one more is opened beyond the limit.
pub const LAYER_FILES_LOOKED: usize = 64;
/// Room for new blocks that is taken from the file system's free space at once, before it is asked again.
pub const LAYER_ROOM_BYTES: u64 = 16 << 20;
/// Least and largest bytes of the file system kept free of nodes' new blocks when nothing else is set.
pub const LAYER_RESERVE_MIN: u64 = 1 << 30;
/// See [`LAYER_RESERVE_MIN`].
pub const LAYER_RESERVE_MAX: u64 = 32 << 30;
/// Blocks of an UNMAP whose space is given back to the file system: shorter runs cost more than they free.
pub const LAYER_PUNCH_BLOCKS: u64 = 16;

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
/// After an event was heard, the next ones are left to gather for so long: a storm wakes each reader no more often.
pub const EVENTS_GATHER: Duration = Duration::from_millis(50);
/// The board of the control socket reads what happened at least this often while something happens; whoever asks it
/// something makes it read all first.
pub const BOARD_EVERY: Duration = Duration::from_millis(250);

// --- names, catalog, head ---

/// Names that one node set expression may expand to, over all its operands.
pub const NODE_SET_NAMES_MAX: usize = 100_000;
/// Bytes of one node set expression: room for as many single names.
pub const NODE_SET_TEXT_MAX: usize = 8 << 20;
/// Nodes of one head.
pub const NODES_MAX: usize = 100_000;
/// Network cards of one node.
pub const MACS_PER_NODE: usize = 16;
/// Images of one head.
pub const IMAGES_MAX: usize = 4_096;
/// Profiles of nodes.
pub const PROFILES_MAX: usize = 1_024;
/// Text that `apply` takes, bytes: about 100,000 nodes with MACs, addresses and secrets.
pub const CATALOG_TEXT_BYTES_MAX: usize = 64 << 20;
/// How deep the values of such a text may lie in each other; the format needs 5.
pub const CATALOG_TEXT_DEPTH_MAX: usize = 12;
/// Values in such a text.
pub const CATALOG_TEXT_VALUES_MAX: usize = 2_000_000;
/// Versions of one image.
pub const VERSIONS_PER_IMAGE: usize = 1_024;
/// Tags of one image.
pub const TAGS_PER_IMAGE: usize = 128;
/// Bytes of a free text: a note, a power command, a source's path.
pub const NOTE_BYTES_MAX: usize = 4_096;
/// Layers reset with one change of the catalog; logins of their nodes wait that long.
pub const RESETS_AT_ONCE: usize = 256;
/// Resets under way at the same time: their journal records share syncs.
pub const RESET_THREADS: usize = 16;
/// Layers that metrics name one by one: those that are warned of or full.
pub const LAYERS_IN_METRICS: usize = 256;
/// How often amounts are noted for forecasts.
pub const SPACE_EVERY: Duration = Duration::from_secs(60);
/// Machines that wait for approval; beyond them the one silent for longest goes.
pub const PENDING_MAX: usize = 1_024;
/// Waiting machines are written to the catalog at most this often, however often they ask.
pub const PENDING_WRITE_GAP: Duration = Duration::from_secs(10);
/// Campaigns kept; the oldest go first.
pub const CAMPAIGNS_KEPT: usize = 256;
/// Bytes of one campaign's record.
pub const CAMPAIGN_BYTES_MAX: usize = 32 << 20;
/// Boot ids are reserved in the catalog in blocks, so that none is given twice after a crash.
pub const BOOT_ID_BLOCK: u64 = 65_536;
/// Memory of the catalog's page cache.
pub const CATALOG_CACHE_BYTES: usize = 32 << 20;

const _: () = assert!(LOADERS_BUSY < TFTP_TRANSFERS_MAX);
const _: () = assert!(LOADER_FRESH.as_secs() <= BOOT_QUIET.as_secs());
const _: () = assert!(TARGET_MRDSL >= FIRST_BURST_MAX);
const _: () = assert!(FIRST_BURST_MAX <= MAX_BURST_MAX);
const _: () = assert!(RECEIVE_MAX > TARGET_MRDSL as usize + 48 + 1020 + 16);
const _: () = assert!(
    COMMAND_WINDOW + IMMEDIATE_MAX < 512,
    "task numbers have nine bits in a TTT"
);
const _: () = assert!(CONNECTION_DATA_MAX < DATA_BYTES_PER_NODE);
const _: () = assert!(DATA_BYTES_PER_NODE <= DATA_BYTES_COMMON);
// What is left beside the common part and everyone's reserve: the floor of every session.
const _: () = assert!(SESSIONS_MAX * CONNECTION_FLOOR <= DATA_BYTES_MAX / 4);
const _: () = assert!(UNAUTHENTICATED_PER_ADDRESS <= UNAUTHENTICATED_MAX / 2);
const _: () = assert!(BACK_OFF_MAX.as_secs() * 2 < LOGIN_WAIT.as_secs());
const _: () = assert!(ANSWERS_MAX > (COMMAND_WINDOW + IMMEDIATE_MAX) as usize);
const _: () = assert!(SESSIONS_PER_TARGET >= SESSIONS_PER_INITIATOR);
const _: () = assert!(CONNECTION_RESERVE >= FIRST_BURST_MAX as usize);
const _: () = assert!(DATA_BYTES_MIN / 4 / CONNECTION_FLOOR >= 1024);
const _: () = assert!(CHUNK_BYTES.is_multiple_of(4096));
const _: () = assert!(PACK_BYTES_MAX.is_multiple_of(CHUNK_BYTES));
const _: () = assert!(PACK_BYTES_MAX / CHUNK_BYTES <= u32::MAX as u64);
const _: () = assert!(IMPORT_BATCH_CHUNKS * IMPORT_BATCHES * CHUNK_LEN <= 64 << 20);
const _: () = assert!(DISK_BYTES_MAX / 4096 <= u32::MAX as u64 + 1);
const _: () = assert!(TRANSFER_MAX < DATA_BYTES_MAX as u64);
const _: () = assert!(NODES_MAX <= NODE_SET_NAMES_MAX);
const _: () = assert!(NODE_SET_TEXT_MAX / 64 >= NODE_SET_NAMES_MAX);

// --- power and waves ---

/// A power command must end within this.
pub const POWER_WAIT: Duration = Duration::from_secs(60);
/// Power commands running at one time.
pub const POWER_PARALLEL: usize = 32;
/// A booted node whose disk was left alone for this long is taken for ready.
pub const SETTLE: Duration = Duration::from_secs(10);
/// Nodes of one campaign.
pub const CAMPAIGN_NODES_MAX: usize = 20_000;
/// Wave size at which `--wave auto` starts.
pub const WAVE_AUTO_START: u32 = 8;
/// Wave size it never passes.
pub const WAVE_AUTO_MAX: u32 = 1024;
const _: () = assert!(TRANSFER_BLOCKS_ADVISED as u64 * 512 <= TRANSFER_MAX);
const _: () = assert!(TRANSFER_MAX <= u32::MAX as u64);
const _: () = assert!(2 * COMPARE_AND_WRITE_BLOCKS_MAX * 512 <= TRANSFER_MAX);
// The CDB and VPD B0 have one byte for it.
const _: () = assert!(COMPARE_AND_WRITE_BLOCKS_MAX <= u8::MAX as u64);

// --- the offline check ---

/// Bad chunks that a check tells one by one; the others are counted.
pub const CHECK_BAD_CHUNKS_TOLD: usize = 1000;
/// Bytes of a catalog that a check takes into memory.
pub const CHECK_CATALOG_BYTES_MAX: u64 = 4 << 30;
/// Free space of the state directory's file system below which a check warns: parts in a hundred, and bytes.
pub const CHECK_FREE_PERCENT_MIN: u64 = 5;
/// The same in bytes: less than both is told.
pub const CHECK_FREE_BYTES_MIN: u64 = 10 << 30;
/// Bytes of the lock file that are read.
pub const LOCK_TEXT_BYTES_MAX: u64 = 1024;

// --- promoting layers, differences ---

/// Blocks that are copied aside for who reads a layer as it was while its node writes over it: 64 MiB.
pub const LAYER_VIEW_BLOCKS: u64 = 16_384;
/// Bytes of a persistent layer that are compared with a new image version at a boot; a larger one stays.
pub const REBASE_BYTES_MAX: u64 = 1 << 30;
/// Files of one file system that are compared.
pub const DIFF_FILES_MAX: usize = 2_000_000;
/// Files that are listed of each kind of difference.
pub const DIFF_LISTED_MAX: usize = 10_000;
/// Directories in directories that are followed.
pub const DIFF_DEPTH_MAX: usize = 200;
/// Bytes that may be read of a file system beyond four times its size.
pub const DIFF_READ_SLACK: u64 = 64 << 20;
/// Chunks between two reports of a comparison.
pub const DIFF_STEP_CHUNKS: u64 = 4096;
/// The largest FAT that is read into memory, bytes.
pub const DIFF_FAT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of all paths of one file system that are held.
pub const DIFF_PATH_BYTES_MAX: usize = 512 << 20;
/// Pieces that one file lies in.
pub const DIFF_EXTENTS_MAX: usize = 1 << 20;
/// Records that the table of files of an NTFS itself is spread over.
pub const DIFF_TABLE_PARTS_MAX: usize = 256;
/// Bytes of the list that says where the table of files of an NTFS goes on.
pub const DIFF_INLINE_BYTES_MAX: usize = 1 << 20;

// --- traces of boots ---

/// Operations of one trace: hours of a busy node.
pub const TRACE_OPS_MAX: usize = 4_000_000;
/// Sessions of one trace.
pub const TRACE_SESSIONS_MAX: usize = 1024;
/// Lines in the head of a trace beside the size of its disk.
pub const TRACE_ABOUT_MAX: usize = 64;
/// Bytes of one line of a trace.
pub const TRACE_LINE_BYTES_MAX: usize = 1024;
/// Bytes of the text of a trace.
pub const TRACE_TEXT_BYTES_MAX: u64 = 512 << 20;
/// The latest moment of a trace, microseconds since its start: 30 days.
pub const TRACE_SPAN_US_MAX: u64 = 30 * 24 * 3600 * 1_000_000;
const _: () = assert!(TRACE_SESSIONS_MAX <= u16::MAX as usize);
const _: () = assert!(TRACE_OPS_MAX <= u32::MAX as usize);
const _: () = assert!(
    TRACE_OPS_MAX as u64 * 100 < TRACE_TEXT_BYTES_MAX,
    "a line of an operation has at most 100 bytes"
);

// --- the swarm ---

/// Nodes of one swarm.
pub const SWARM_NODES_MAX: usize = 20_000;
/// Threads of one swarm.
pub const SWARM_THREADS_MAX: usize = 64;
/// Bytes of the image that are held for comparison, once for all nodes.
pub const SWARM_GOLDEN_BYTES_MAX: u64 = 1 << 30;
/// Bytes that a thread of the swarm receives at once, into its one buffer.
pub const SWARM_RECEIVE_BYTES: usize = 256 << 10;
/// Bytes that a buffer to send from keeps when it is idle.
pub const SWARM_SEND_KEPT: usize = 64 << 10;
/// Sockets that a thread hears of in one call.
pub const SWARM_EVENTS: usize = 1024;
/// Connections of a swarm that are on their way in at one time, all threads: below what a head takes of one address.
pub const SWARM_LOGINS_AT_ONCE: usize = 512;
/// How often a thread looks for what was never answered, and whether it shall stop.
pub const SWARM_SWEEP: Duration = Duration::from_millis(250);
/// Commands that one virtual node has under way.
pub const SWARM_DEPTH_MAX: usize = 256;
/// Bytes of one READ that reads back what was written.
pub const SWARM_VERIFY_BYTES: u64 = 128 << 10;
/// Such READs of one node at one time.
pub const SWARM_VERIFY_DEPTH: usize = 4;
/// A connection must be made, and a login or logout answered, within this.
pub const SWARM_LOGIN_WAIT: Duration = Duration::from_secs(30);
/// Connections in a row that may be lost before a node gives up: a minute of a head that is away.
pub const SWARM_RECONNECTS: u32 = 64;
/// First wait before something is tried again; it doubles for connections.
pub const SWARM_RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest such wait.
pub const SWARM_RETRY_MAX: Duration = Duration::from_secs(1);
/// How often a command goes again whose end was a passing condition (Linux: 5).
pub const SWARM_RETRIES: u32 = 5;
/// The same of BUSY and TASK SET FULL, at the first wait's pace: a minute.
pub const SWARM_BUSY_TRIES: u32 = 1200;
/// Block size that a virtual node asks TFTP for: iPXE's.
pub const SWARM_TFTP_BLOCK: u16 = 1432;
/// First wait for a TFTP server; it doubles with each repetition.
pub const SWARM_TFTP_WAIT: Duration = Duration::from_secs(1);
/// Longest such wait.
pub const SWARM_TFTP_WAIT_MAX: Duration = Duration::from_secs(8);
/// How often one datagram of a TFTP transfer is sent: a minute of a head that is away.
pub const SWARM_TFTP_TRIES: u32 = 10;
/// Bytes of the head of an HTTP answer.
pub const SWARM_HTTP_HEAD_MAX: usize = 8 << 10;
/// Bytes of its body: a script.
pub const SWARM_HTTP_BODY_MAX: usize = 64 << 10;
/// How often a node tries to say that it is ready, 1, 2, 4 and 8 s apart, as the images do.
pub const SWARM_READY_TRIES: u32 = 5;
/// Scripts in a row that tell of a trouble of the head before a node gives up; each is 10 s of waiting.
pub const SWARM_SCRIPT_TROUBLES: u32 = 6;
/// Virtual nodes beside their head have the addresses above this one, so that each is a client of its own.
pub const SWARM_ADDRESSES: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
/// Nodes that a report tells one by one, of the slowest and of those with faults.
pub const SWARM_NODES_TOLD: usize = 10;
/// Wrong places that a report tells one by one.
pub const SWARM_MISMATCHES_TOLD: usize = 16;
const _: () = assert!(SWARM_LOGINS_AT_ONCE <= UNAUTHENTICATED_PER_ADDRESS);
const _: () = assert!(SWARM_LOGINS_AT_ONCE < LOADERS_BUSY);
const _: () = assert!(SWARM_VERIFY_BYTES.is_multiple_of(1 << 16));

// --- recording traces ---

/// Nodes that are recorded at a time.
pub const RECORDINGS_MAX: usize = 8;
/// Operations of one recording: 48 MiB.
pub const RECORDING_OPS_MAX: usize = 1 << 20;
/// Places that are noted of one command.
pub const RECORDING_PARTS_MAX: usize = 4096;
/// How often a recording looks whether it is over.
pub const RECORD_LOOK: Duration = Duration::from_millis(200);
/// A node whose operating system has logged out, and that did not come back for this long, is off.
pub const RECORD_LOGOUT_QUIET: Duration = Duration::from_secs(10);
/// Longest that a recording may wait or last.
pub const RECORD_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Bytes of a trace's file.
pub const TRACE_FILE_BYTES_MAX: u64 = 512 << 20;
const _: () = assert!(RECORDING_OPS_MAX <= TRACE_OPS_MAX);
const _: () = assert!(RECORD_SECONDS_MAX * 1_000_000 <= TRACE_SPAN_US_MAX);

// --- rehearsals ---

/// Bytes of an image that are read at once for a rehearsal's comparison.
pub const REHEARSAL_READ_BYTES: u64 = 1 << 20;
