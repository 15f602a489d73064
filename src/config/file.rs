//! The file as it is typed. Every key is optional; unknown ones are refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) server: Server,
    pub(super) iscsi: Iscsi,
    pub(super) limits: Limits,
    pub(super) boot: Boot,
    pub(super) api: Api,
    pub(super) wave: Wave,
    pub(super) store: Store,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Iscsi {
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) iqn_prefix: Option<String>,
    pub(super) auth: Option<super::settings::AuthMode>,
    pub(super) chap_algorithms: Option<Vec<super::settings::ChapAlgorithm>>,
    pub(super) digests: Option<super::settings::DigestMode>,
    pub(super) redirect: Option<String>,
    pub(super) workers: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) sessions_per_node: Option<usize>,
    pub(super) connections: Option<usize>,
    pub(super) data_memory: Option<String>,
    pub(super) logins_in_progress: Option<usize>,
    pub(super) logins_per_address: Option<usize>,
    pub(super) layer: Option<String>,
    pub(super) layer_warn: Option<String>,
    pub(super) reserve: Option<String>,
    pub(super) pin: Option<String>,
    pub(super) image_memory: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Boot {
    pub(super) interfaces: Option<Vec<String>>,
    pub(super) dhcp: Option<super::settings::DhcpMode>,
    pub(super) range: Option<String>,
    pub(super) netmask: Option<Ipv4Addr>,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) dns: Option<Vec<Ipv4Addr>>,
    pub(super) dhcp_port: Option<u16>,
    pub(super) pxe_port: Option<u16>,
    pub(super) tftp: Option<String>,
    pub(super) http: Option<SocketAddr>,
    pub(super) loaders: Option<PathBuf>,
    pub(super) portal: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wave {
    pub(super) size: Option<toml::Value>,
    pub(super) timeout_s: Option<u64>,
    pub(super) retries: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    pub(super) journal_kib: Option<u64>,
    pub(super) soft_kib: Option<u64>,
    pub(super) scrub: Option<String>,
    pub(super) scrub_rate: Option<String>,
}
