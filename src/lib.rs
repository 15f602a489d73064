//! Reveille wakes a whole diskless cluster from one golden image: it keeps golden disk images, gives each node
//! a copy-on-write layer over one of them, serves the two as an iSCSI disk, answers the node's boot requests
//! itself, and starts nodes in waves.
//!
//! # The map of the house
//!
//! One crate. A room names only rooms of a lower level, and rooms of one level never meet; `tests/tidy.rs`
//! holds it. Each room's first lines say what it is for, what it never does, and its words.
//!
//! ```text
//! 9  cli                             commands; the daemon's API, or the same routes in this process
//! 8  daemon                          the only place that wires rooms together
//! 7  api                             HTTP with JSON on a unix socket
//! 6  wave   swarm                    campaigns, virtual nodes
//! 5  iscsi   boot                    what nodes talk to
//! 4  head                            one state directory, opened whole
//! 3  scsi   store   catalog   power  a disk's commands, bytes, facts, switches
//! 2  events   config
//! 1  names   telemetry   trace
//! 0  units   limits
//! ```
//!
//! - [`units`]: quantities that must not be mixed up: block numbers, byte counts, milliseconds since 1970.
//! - [`limits`]: every bound of the program (queues, tables, times, retries), tied together by assertions.
//! - [`names`]: values that are well formed once they exist: node names, nodesets, MACs, iSCSI names, ids.
//! - [`telemetry`]: the program's own log, and who reads which level.
//! - [`trace`]: what a node asked of its disk in one boot: the file, and what a replay has to wait for. Pure.
//! - [`events`]: what happened, told once on a bus with the boot it belongs to; folded into stages by a pure
//!   timeline that status, waves and tests share.
//! - [`config`]: `reveille.toml`, from the file as typed to valid settings. No room reads it; the daemon turns
//!   settings into each room's options.
//! - [`scsi`]: the device server of one disk. A CDB comes in, a block operation or sense goes out. Pure.
//! - [`store`]: images (content-addressed chunks in packs, verified on the way in), layers (one sparse file
//!   each, one durable and one soft journal for all), volumes (layer over image). Knows no node.
//! - [`catalog`]: small durable facts: nodes, images, bindings, machines that wait, campaigns. One writer;
//!   readers hold an immutable snapshot.
//! - [`power`]: switches a node by the administrator's command. Never decides when.
//! - [`head`]: what needs catalog and store at once: imports, a node's disk at a boot and at a login, removal,
//!   collection; and the gate that says who may boot now.
//! - [`iscsi`]: RFC 7143. Login and connection are pure machines; the server gives each connection to one
//!   thread, where it stays.
//! - [`boot`]: DHCP, ProxyDHCP, TFTP, HTTP. One pure plan for each request, which all services render.
//! - [`wave`]: a campaign as a pure machine that hears events and the time, and the driver that does what it
//!   says.
//! - [`swarm`]: virtual nodes that replay recorded boots against any target and look at every byte.
//! - [`api`]: thin routes over `head` and `wave`, for the command line and for programs.
//! - [`daemon`]: starts the rooms in order, says `ready ...`, stops them in order.
//! - [`cli`]: one file per noun. Data to stdout, the rest to stderr, one enum of exit codes.
//!
//! Pure files take time and chance as arguments and do no I/O; shells (`server.rs`, `driver.rs` and the like)
//! do it for them. The flow of a READ, a WRITE, a boot and a campaign: `docs/architecture.md`.

// The fuzz targets (tools/fuzz) leave out what they do not reach: it would double the time of their build.
#[cfg(not(fuzzing))]
pub mod api;
pub mod boot;
pub mod catalog;
#[cfg(not(fuzzing))]
pub mod cli;
pub mod config;
#[cfg(not(fuzzing))]
pub mod daemon;
pub mod events;
pub mod head;
pub mod iscsi;
pub mod limits;
pub mod names;
pub mod power;
pub mod scsi;
pub mod store;
#[cfg(not(fuzzing))]
pub mod swarm;
pub mod telemetry;
pub mod trace;
pub mod units;
#[cfg(not(fuzzing))]
pub mod wave;
