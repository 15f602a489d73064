//! Validated settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::{Boot, File, Iscsi, Store, Wave};
use super::nearest::nearest;
use crate::limits;
use crate::names::{Iqn, parse_portal};

/// A fault of the configuration: the file, the line where there is one, the cause and the next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// How DHCP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhcpMode {
    /// Beside a foreign server, for boot information only.
    Proxy,
    /// As the network's server.
    Server,
    /// Not at all.
    Off,
}

/// Who may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// Anyone who reaches the port.
    None,
    /// Nodes prove themselves.
    #[default]
    Chap,
    /// Nodes prove themselves and are made to ask the head for its proof.
    Mutual,
}

/// A digest for CHAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChapAlgorithm {
    /// SHA3-256, number 8.
    #[serde(rename = "sha3-256")]
    Sha3,
    /// SHA-256, number 7.
    Sha256,
    /// SHA-1, number 6.
    Sha1,
    /// MD5, number 5: iPXE and Windows know no other.
    Md5,
}

/// Which digests of PDUs are agreed to, within an initiator's offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigestMode {
    /// The first of the offer.
    #[default]
    Offered,
    /// None where it is offered.
    PreferNone,
    /// CRC32C where it is offered.
    PreferCrc32c,
}

/// Everything, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// State directory.
    pub state: PathBuf,
    /// Control socket.
    pub socket: PathBuf,
    /// iSCSI.
    pub iscsi: IscsiSettings,
    /// Bounds.
    pub limits: LimitSettings,
    /// Boot services; none when no interface is named.
    pub boot: Option<BootSettings>,
    /// Defaults of campaigns.
    pub wave: WaveSettings,
    /// Upkeep of the layers.
    pub store: StoreSettings,
}

/// Settings of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiSettings {
    /// Portals.
    pub listen: Vec<SocketAddr>,
    /// What target names begin with.
    pub iqn_prefix: String,
    /// Who may log in.
    pub auth: AuthMode,
    /// Digests for CHAP in the order of preference; never empty.
    pub chap_algorithms: Vec<ChapAlgorithm>,
    /// Digests of PDUs.
    pub digests: DigestMode,
    /// Another head that every login is sent to.
    pub redirect: Option<SocketAddr>,
    /// Threads.
    pub workers: usize,
}

/// Bounds that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Sessions of one node.
    pub sessions_per_node: usize,
    /// Connections that have logged in.
    pub connections: usize,
    /// Bytes of data that all connections hold together.
    pub data_memory: usize,
    /// Connections that have not logged in yet.
    pub logins_in_progress: usize,
    /// The same of one address.
    pub logins_per_address: usize,
    /// Bytes that a node's layer may hold.
    pub layer: Option<u64>,
    /// Bytes of a layer beyond which its owner is told.
    pub layer_warn: Option<u64>,
    /// Bytes of the file system that nodes' new blocks never take; none: by its size.
    pub reserve: Option<u64>,
    /// Memory kept warm for boot profiles, bytes.
    pub pin: u64,
    /// Memory that golden chunks are held in, bytes; none: a quarter of the machine's.
    pub image_memory: Option<u64>,
}

/// Settings of the boot services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSettings {
    /// Interfaces.
    pub interfaces: Vec<String>,
    /// DHCP.
    pub dhcp: DhcpMode,
    /// First and last address to give out.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Netmask to tell; the interface's when none.
    pub netmask: Option<Ipv4Addr>,
    /// Router to tell.
    pub router: Option<Ipv4Addr>,
    /// Name servers to tell.
    pub dns: Vec<Ipv4Addr>,
    /// DHCP's port.
    pub dhcp_port: u16,
    /// The PXE boot server's port.
    pub pxe_port: u16,
    /// TFTP, unless off.
    pub tftp: Option<SocketAddr>,
    /// HTTP.
    pub http: SocketAddr,
    /// Directory of loaders.
    pub loaders: Option<PathBuf>,
    /// iSCSI address told to nodes.
    pub portal: Option<SocketAddr>,
}

/// Defaults of campaigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaveSettings {
    /// `25` or `auto`.
    pub size: String,
    /// Seconds of one attempt.
    pub timeout_s: u64,
    /// Further attempts.
    pub retries: u32,
}

/// Settings of the layers' upkeep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Journal size at which a checkpoint is written, bytes.
    pub journal_bytes: u64,
    /// Growth of the soft log at which it is rewritten, bytes.
    pub soft_bytes: u64,
    /// From the end of one scrub to the next; none: only when asked.
    pub scrub_every: Option<Duration>,
    /// Bytes that the scrub reads in a second.
    pub scrub_rate: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_text("", Path::new("")).expect("an empty file is valid")
    }
}

impl Settings {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Unreadable, not TOML, unknown keys, values out of range.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigError(format!(
                "configuration {}: {e}; write one with `reveille config example`",
                path.display()
            ))
        })?;
        Self::from_text(&text, path)
    }

    /// Checks `text`; `path` is for the messages.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError(format!("configuration {}: {why}", path.display()));
        let file: File = toml::from_str(text).map_err(|e| wrong(describe(&e, text)))?;
        let state = file.server.state.unwrap_or("/var/lib/reveille".into());
        Ok(Self {
            socket: file
                .api
                .socket
                .unwrap_or_else(|| state.join("reveille.sock")),
            iscsi: iscsi(file.iscsi).map_err(wrong)?,
            limits: super::bounds::limits(&file.limits).map_err(wrong)?,
            boot: boot(file.boot).map_err(wrong)?,
            wave: wave(file.wave).map_err(wrong)?,
            store: store(&file.store).map_err(wrong)?,
            state,
        })
    }

    /// Moves the state directory, and the socket with it unless the socket was placed elsewhere.
    pub fn set_state(&mut self, state: PathBuf) {
        if self.socket == self.state.join("reveille.sock") {
            self.socket = state.join("reveille.sock");
        }
        self.state = state;
    }
}

/// Line, cause, and for an unknown key the nearest known one.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    let at = error.span().map_or(String::new(), |span| {
        let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
        format!("line {line}: ")
    });
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((given, known)) = quoted
        .split_first()
        .filter(|_| message.starts_with("unknown field"))
    else {
        return format!("{at}{}", message.replace('\n', "; "));
    };
    match nearest(given, known) {
        Some(near) => format!("{at}unknown key `{given}`; did you mean `{near}`?"),
        None => format!(
            "{at}unknown key `{given}`; known here: {}",
            known.join(", ")
        ),
    }
}

fn iscsi(file: Iscsi) -> Result<IscsiSettings, String> {
    let listen = file
        .listen
        .unwrap_or_else(|| vec![(Ipv4Addr::UNSPECIFIED, 3260).into()]);
    if listen.is_empty() {
        return Err("iscsi.listen is empty; name at least one address:port".into());
    }
    let prefix = file
        .iqn_prefix
        .unwrap_or_else(|| "iqn.2026-11.internal.reveille".into());
    let prefix = Iqn::parse_prefix(&prefix)
        .map_err(|e| format!("iscsi.iqn_prefix `{prefix}`: {}", e.why))?;
    Ok(IscsiSettings {
        listen,
        iqn_prefix: prefix.to_string(),
        auth: file.auth.unwrap_or_default(),
        chap_algorithms: algorithms(file.chap_algorithms)?,
        digests: file.digests.unwrap_or_default(),
        redirect: redirect(file.redirect.as_deref())?,
        workers: file.workers.unwrap_or(0),
    })
}

fn redirect(text: Option<&str>) -> Result<Option<SocketAddr>, String> {
    let text = text.filter(|text| !text.is_empty());
    let portal = text.map(parse_portal).transpose();
    portal.map_err(|e| format!("iscsi.redirect `{}`: {}", e.given, e.why))
}

fn algorithms(wanted: Option<Vec<ChapAlgorithm>>) -> Result<Vec<ChapAlgorithm>, String> {
    use ChapAlgorithm::{Md5, Sha1, Sha3, Sha256};
    let wanted = wanted.unwrap_or_else(|| vec![Sha3, Sha256, Sha1, Md5]);
    if wanted.is_empty() {
        let why = "iscsi.chap_algorithms is empty; name at least one, or set auth = \"none\"";
        return Err(why.into());
    }
    if let Some(twice) = (0..)
        .zip(&wanted)
        .find(|&(at, a)| wanted.iter().take(at).any(|b| a == b))
    {
        let at = twice.0 + 1;
        return Err(format!("iscsi.chap_algorithms names its entry {at} twice"));
    }
    Ok(wanted)
}

fn boot(file: Boot) -> Result<Option<BootSettings>, String> {
    let interfaces = file.interfaces.unwrap_or_default();
    if interfaces.is_empty() {
        let idle = file.dhcp.is_none() && file.range.is_none();
        let none = "boot.interfaces is empty but DHCP is asked for; name the nodes' interface";
        return if idle { Ok(None) } else { Err(none.into()) };
    }
    let dhcp = file.dhcp.unwrap_or(DhcpMode::Proxy);
    let range = file.range.filter(|r| !r.is_empty());
    let range = range.map(|r| parse_range(&r)).transpose()?;
    match (dhcp, range) {
        (DhcpMode::Server, None) => {
            let why = "boot.dhcp is \"server\" but boot.range is missing; \
                       give the addresses for nodes, like \"10.0.0.100-10.0.0.199\"";
            return Err(why.into());
        }
        (DhcpMode::Proxy | DhcpMode::Off, Some(_)) => {
            return Err("boot.range is set but boot.dhcp is not \"server\"; remove one".into());
        }
        _ => {}
    }
    let tftp = match file.tftp.as_deref() {
        Some("off") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            format!("boot.tftp `{text}`: must be address:port, like 0.0.0.0:69, or \"off\"")
        })?),
        None => Some((Ipv4Addr::UNSPECIFIED, 69).into()),
    };
    Ok(Some(BootSettings {
        interfaces,
        dhcp,
        range,
        netmask: file.netmask,
        router: file.router,
        dns: file.dns.unwrap_or_default(),
        dhcp_port: file.dhcp_port.unwrap_or(67),
        pxe_port: file.pxe_port.unwrap_or(4011),
        tftp,
        http: file.http.unwrap_or((Ipv4Addr::UNSPECIFIED, 8068).into()),
        loaders: file.loaders,
        portal: file.portal,
    }))
}

fn parse_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let wrong = |why: &str| format!("boot.range `{text}`: {why}, like \"10.0.0.100-10.0.0.199\"");
    let (first, last) = text
        .split_once('-')
        .ok_or_else(|| wrong("must be FIRST-LAST"))?;
    let address = |t: &str| {
        t.trim()
            .parse::<Ipv4Addr>()
            .map_err(|_| wrong("must hold two addresses"))
    };
    let (first, last) = (address(first)?, address(last)?);
    if first > last {
        return Err(wrong("the first address must not be above the last"));
    }
    Ok((first, last))
}

fn wave(file: Wave) -> Result<WaveSettings, String> {
    let size = match file.size {
        None => "auto".to_owned(),
        Some(toml::Value::String(s)) if s == "auto" => s,
        Some(toml::Value::Integer(n)) if n > 0 => n.to_string(),
        Some(other) => {
            return Err(format!(
                "wave.size {other}: must be a number above 0, or \"auto\""
            ));
        }
    };
    let timeout_s = file.timeout_s.unwrap_or(600);
    if timeout_s == 0 {
        return Err("wave.timeout_s must be above 0".into());
    }
    Ok(WaveSettings {
        size,
        timeout_s,
        retries: file.retries.unwrap_or(1),
    })
}

fn store(file: &Store) -> Result<StoreSettings, String> {
    let bytes = |key: &str, kib: Option<u64>, usual: u64| match kib {
        None => Ok(usual),
        Some(kib @ 1..=1_048_576) => Ok(kib << 10),
        Some(kib) => Err(format!("store.{key} {kib}: must be 1 to 1048576 (1 GiB)")),
    };
    Ok(StoreSettings {
        journal_bytes: bytes("journal_kib", file.journal_kib, limits::LAYER_JOURNAL_BYTES)?,
        soft_bytes: bytes("soft_kib", file.soft_kib, limits::LAYER_SOFT_BYTES)?,
        scrub_every: super::bounds::period(
            "store.scrub",
            file.scrub.as_deref(),
            limits::SCRUB_EVERY,
        )?,
        scrub_rate: super::bounds::amount(
            "store.scrub_rate",
            file.scrub_rate.as_deref(),
            limits::SCRUB_RATE,
            1 << 20,
        )?,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn read(text: &str) -> Result<Settings, ConfigError> {
        Settings::from_text(text, Path::new("r.toml"))
    }

    #[test]
    fn the_example_is_the_default() {
        assert_eq!(read(super::super::EXAMPLE).unwrap(), Settings::default());
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_match() {
        let error = read("[iscsi]\nauth = \"chap\"\nlistn = []\n").unwrap_err();
        assert_eq!(
            error.0,
            "configuration r.toml: line 3: unknown key `listn`; did you mean `listen`?"
        );
        let error = read("[colours]\n").unwrap_err();
        assert!(error.0.contains("line 1: unknown key `colours`"), "{error}");
    }

    #[test]
    fn wrong_values_name_the_key() {
        for (text, word) in [
            (
                "[boot]\ninterfaces=[\"a\"]\ndhcp=\"server\"",
                "boot.range is missing",
            ),
            (
                "[boot]\ninterfaces=[\"a\"]\nrange=\"10.0.0.9-10.0.0.1\"\ndhcp=\"server\"",
                "boot.range",
            ),
            ("[boot]\ndhcp=\"server\"", "boot.interfaces"),
            ("[boot]\ninterfaces=[\"a\"]\ntftp=\"x\"", "boot.tftp"),
            ("[iscsi]\niqn_prefix=\"my disk\"", "iscsi.iqn_prefix"),
            ("[iscsi]\nlisten=[\"3260\"]", "line 2"),
            ("[iscsi]\nauth=\"both\"", "line 2"),
            ("[iscsi]\nredirect=\"head2\"", "iscsi.redirect `head2`"),
            ("[iscsi]\ndigests=\"always\"", "line 2"),
            ("[limits]\nsessions=3", "unknown key `sessions`"),
            ("[limits]\nsessions_per_node=1", "limits.sessions_per_node"),
            ("[limits]\ndata_memory=\"64M\"", "limits.data_memory"),
            ("[limits]\npin=\"2T\"", "limits.pin"),
            ("[limits]\npin=\"0M\"", "limits.pin"),
            ("[limits]\nimage_memory=\"1k\"", "limits.image_memory"),
            ("[store]\nscrub=\"monthly\"", "store.scrub"),
            ("[store]\nscrub=\"0d\"", "store.scrub"),
            ("[store]\nscrub_rate=\"16\"", "store.scrub_rate"),
            ("[limits]\ndata_memory=\"lots\"", "limits.data_memory"),
            ("[limits]\nconnections=100000", "limits.connections"),
            ("[limits]\nlayer=\"4\\u00a0G\"", "limits.layer"),
            (
                "[limits]\nlayer=\"1G\"\nlayer_warn=\"2G\"",
                "limits.layer_warn",
            ),
            ("[limits]\nreserve=\"0\"", "limits.reserve"),
            (
                "[limits]\nlogins_in_progress=0",
                "limits.logins_in_progress",
            ),
            (
                "[limits]\nlogins_per_address=5000",
                "limits.logins_per_address",
            ),
            (
                "[iscsi]\nchap_algorithms=[]",
                "iscsi.chap_algorithms is empty",
            ),
            ("[iscsi]\nchap_algorithms=[\"md4\"]", "line 2"),
            (
                "[iscsi]\nchap_algorithms=[\"md5\",\"md5\"]",
                "entry 2 twice",
            ),
            ("[wave]\nsize=0", "wave.size"),
            ("[store]\njournal_kib=0", "store.journal_kib"),
            ("[store]\nsoft_kib=1048577", "store.soft_kib"),
            ("[wave]\ntimeout_s=0", "wave.timeout_s"),
            ("[wave", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.0.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn who_may_log_in_has_three_words() {
        let auth = |text: &str| read(text).unwrap().iscsi.auth;
        assert_eq!(auth(""), AuthMode::Chap);
        assert_eq!(auth("[iscsi]\nauth=\"chap\""), AuthMode::Chap);
        assert_eq!(auth("[iscsi]\nauth=\"mutual\""), AuthMode::Mutual);
        assert_eq!(auth("[iscsi]\nauth=\"none\""), AuthMode::None);
    }

    #[test]
    fn ports_of_boot_services_can_be_moved() {
        let boot = |text: &str| read(text).unwrap().boot.unwrap();
        let usual = boot("[boot]\ninterfaces=[\"a\"]");
        assert_eq!((usual.dhcp_port, usual.pxe_port), (67, 4011));
        let moved = boot("[boot]\ninterfaces=[\"a\"]\ndhcp_port=1067\npxe_port=14011");
        assert_eq!((moved.dhcp_port, moved.pxe_port), (1067, 14011));
    }

    #[test]
    fn the_socket_moves_with_the_state_directory() {
        let mut settings = Settings::default();
        settings.set_state("/srv/r".into());
        assert_eq!(settings.socket, Path::new("/srv/r/reveille.sock"));
        let mut settings = read("[api]\nsocket=\"/run/x.sock\"").unwrap();
        settings.set_state("/srv/r".into());
        assert_eq!(settings.socket, Path::new("/run/x.sock"));
    }
}
