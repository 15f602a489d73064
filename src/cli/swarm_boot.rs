//! `reveille swarm run --boot`: where the boot services are, and which machine each virtual node is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::ValueEnum;

use super::door::{Door, escape};
use super::swarm_nodes::{reachable, refused};
use super::swarm_run::usage;
use crate::config::{BootSettings, DhcpMode, Settings};
use crate::head::NodeView;
use crate::limits::{SWARM_ADDRESSES, SWARM_NODES_MAX};
use crate::names::Mac;
use crate::swarm::{BootPath, Firmware, Identity};

/// What comes before the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    tftp: bool,
    http: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FirmwareArg {
    /// A PXE ROM: undionly.kpxe
    #[default]
    Bios,
    /// UEFI on x86-64: ipxe.efi
    Uefi,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network boot before the disk")]
pub(super) struct BootArgs {
    /// Nodes boot from the network as firmware does: `tftp` fetches the loader, `http` the script whose disk, names
    /// and secrets are then used, and makes the ready call at the end [without STAGES: tftp,http]
    #[arg(
        long,
        value_name = "STAGES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "tftp,http",
        value_parser = stages
    )]
    boot: Option<Stages>,
    /// Where the head's TFTP listens [default: as this head is configured]
    #[arg(long, value_name = "ADDR:PORT", requires = "boot")]
    tftp: Option<SocketAddr>,
    /// Where the head's boot scripts are [default: as this head is configured]
    #[arg(long, value_name = "ADDR:PORT", requires = "boot")]
    http: Option<SocketAddr>,
    /// What the machines are
    #[arg(long, value_enum, default_value_t, requires = "boot")]
    firmware: FirmwareArg,
    /// File with lines of `NODE MAC`, or of `MAC` in the order of the nodes [default: the head's node records]
    #[arg(long, value_name = "FILE", requires = "boot")]
    macs: Option<PathBuf>,
}

fn stages(text: &str) -> Result<Stages, String> {
    let mut found = Stages {
        tftp: false,
        http: false,
    };
    for word in text.split(',') {
        match word.trim() {
            "tftp" => found.tftp = true,
            "http" => found.http = true,
            other => return Err(format!("`{other}` is none of: tftp, http")),
        }
    }
    Ok(found)
}

/// Makes machines of the nodes, and says where they boot from. `door` is there when the nodes are this head's.
pub(super) async fn prepare(
    args: &BootArgs,
    settings: &Settings,
    door: Option<&Door>,
    nodes: &mut [Identity],
) -> anyhow::Result<BootPath> {
    let Some(stages) = args.boot else {
        return Ok(BootPath::default());
    };
    let own = settings.boot.as_ref().filter(|_| door.is_some());
    let path = path(args, stages, own)?;
    machines(args, door, nodes).await?;
    let services: Vec<SocketAddr> = [path.tftp, path.http].into_iter().flatten().collect();
    let near = door.is_some() || services.iter().all(|to| to.ip().is_loopback());
    if near && services.iter().all(SocketAddr::is_ipv4) {
        for (node, number) in nodes.iter_mut().zip(1u32..) {
            let address = u32::from(SWARM_ADDRESSES).checked_add(number);
            node.source = address.map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
        }
    }
    Ok(path)
}

fn path(args: &BootArgs, stages: Stages, own: Option<&BootSettings>) -> anyhow::Result<BootPath> {
    let missing = |flag: &str| {
        usage(&format!(
            "no boot service is known for it here: give --{flag} ADDR:PORT, or name `[boot] interfaces` in this \
             head's configuration"
        ))
    };
    let tftp = match (stages.tftp, args.tftp, own) {
        (false, ..) => None,
        (true, Some(given), _) => Some(given),
        (true, None, None) => return Err(missing("tftp")),
        (true, None, Some(own)) => Some(own_tftp(own)?),
    };
    let http = match (stages.http, args.http, own) {
        (false, ..) => None,
        (true, Some(given), _) => Some(given),
        (true, None, None) => return Err(missing("http")),
        (true, None, Some(own)) if own.dhcp != DhcpMode::Off => {
            return Err(refused(
                "this head tells boot scripts only to machines that its DHCP has seen, and virtual nodes do no DHCP: \
                 rehearse with --boot=tftp here, or with all of it on a head with `[boot] dhcp = \"off\"`",
            ));
        }
        (true, None, Some(own)) => Some(reachable(own.http)),
    };
    let firmware = match args.firmware {
        FirmwareArg::Bios => Firmware::Bios,
        FirmwareArg::Uefi => Firmware::Uefi,
    };
    Ok(BootPath {
        tftp,
        http,
        firmware,
    })
}

/// On every address, TFTP listens at the address of each interface: of those the first.
fn own_tftp(own: &BootSettings) -> anyhow::Result<SocketAddr> {
    let Some(tftp) = own.tftp else {
        return Err(usage("this head's TFTP is off; leave it out: --boot=http"));
    };
    if !tftp.ip().is_unspecified() {
        return Ok(tftp);
    }
    let all = nix::ifaddrs::getifaddrs().context("listing the interfaces of this machine")?;
    let named = all.filter(|entry| own.interfaces.first() == Some(&entry.interface_name));
    let ip = named.filter_map(|entry| entry.address).find_map(|address| {
        address
            .as_sockaddr_in()
            .map(nix::sys::socket::SockaddrIn::ip)
    });
    let ip = ip.ok_or_else(|| {
        usage("the interface of `[boot] interfaces` has no IPv4 address; give --tftp ADDR:PORT")
    })?;
    Ok(SocketAddr::new(IpAddr::V4(ip), tftp.port()))
}

/// Gives each node its hardware address: from the file, or from the head's records.
async fn machines(
    args: &BootArgs,
    door: Option<&Door>,
    nodes: &mut [Identity],
) -> anyhow::Result<()> {
    let mut known: HashMap<String, Mac> = HashMap::new();
    if let Some(door) = door {
        let all = format!("/v1/nodes?nodes={}", escape("@all"));
        let records: Vec<NodeView> = door.get(&all).await?;
        let first = |node: NodeView| Some((node.name.to_string(), *node.macs.first()?));
        known.extend(records.into_iter().filter_map(first));
    }
    if let Some(path) = &args.macs {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("file {}", path.display()))?;
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        known.extend(file_of(&text, &names).with_context(|| format!("file {}", path.display()))?);
    }
    for node in nodes {
        let mac = known.get(&node.name).copied();
        let next =
            "its record gets one with `reveille node set NODE --macs MAC`, or give --macs FILE";
        let none = || {
            refused(&format!(
                "node {} has no hardware address; {next}",
                node.name
            ))
        };
        node.mac = Some(mac.ok_or_else(none)?);
    }
    Ok(())
}

fn file_of(text: &str, names: &[String]) -> anyhow::Result<HashMap<String, Mac>> {
    let mut found = HashMap::new();
    let mut names = names.iter();
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines.take(SWARM_NODES_MAX) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, mac) = match *words.as_slice() {
            [mac] => match names.next() {
                Some(name) => (name.clone(), mac),
                None => break,
            },
            [name, mac, ..] => (name.to_owned(), mac),
            [] => continue,
        };
        let mac = Mac::parse(mac).map_err(|error| anyhow!(error))?;
        if !mac.is_unicast() {
            return Err(anyhow!("{mac} is no address of a machine"));
        }
        found.insert(name, mac);
    }
    Ok(found)
}

#[cfg(test)]
mod test {
    use super::*;

    fn settings(dhcp: DhcpMode, tftp: &str) -> BootSettings {
        BootSettings {
            interfaces: vec!["lo".into()],
            dhcp,
            range: None,
            netmask: None,
            router: None,
            dns: Vec::new(),
            dhcp_port: 67,
            pxe_port: 4011,
            tftp: tftp.parse().ok(),
            http: "0.0.0.0:8068".parse().unwrap(),
            loaders: None,
            portal: None,
        }
    }

    fn args(boot: &str) -> BootArgs {
        BootArgs {
            boot: stages(boot).ok(),
            tftp: None,
            http: None,
            firmware: FirmwareArg::Bios,
            macs: None,
        }
    }

    fn paths(boot: &str, dhcp: DhcpMode, tftp: &str) -> Result<(String, String), String> {
        let args = args(boot);
        let text = |to: Option<SocketAddr>| to.map_or("-".to_owned(), |to| to.to_string());
        path(&args, args.boot.unwrap(), Some(&settings(dhcp, tftp)))
            .map(|path| (text(path.tftp), text(path.http)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn stages_are_named_or_refused() {
        let all = Stages {
            tftp: true,
            http: true,
        };
        assert_eq!(stages("tftp,http"), Ok(all));
        assert_eq!(stages("http"), Ok(Stages { tftp: false, ..all }));
        for bad in ["", "dhcp", "tftp,", "http,ftp"] {
            assert!(stages(bad).unwrap_err().contains("none of"), "{bad}");
        }
    }

    #[test]
    fn services_are_those_of_the_configuration_on_an_address_that_answers() {
        let at = |tftp: &str, http: &str| Ok((tftp.to_owned(), http.to_owned()));
        assert_eq!(
            paths("tftp,http", DhcpMode::Off, "0.0.0.0:69"),
            at("127.0.0.1:69", "127.0.0.1:8068")
        );
        assert_eq!(
            paths("tftp", DhcpMode::Proxy, "10.0.0.1:69"),
            at("10.0.0.1:69", "-")
        );
        assert_eq!(
            paths("http", DhcpMode::Off, "off"),
            at("-", "127.0.0.1:8068")
        );
        assert!(
            paths("tftp", DhcpMode::Off, "off")
                .unwrap_err()
                .contains("--boot=http")
        );
        let why = paths("http", DhcpMode::Server, "off").unwrap_err();
        assert!(why.contains("machines that its DHCP has seen"), "{why}");
    }

    #[test]
    fn machines_are_read_by_name_or_in_order() {
        let names = ["n1".to_owned(), "n2".to_owned()];
        let read = |text: &str| {
            let found = file_of(text, &names).map_err(|error| error.to_string())?;
            let mut found: Vec<_> = found
                .into_iter()
                .map(|(name, mac)| format!("{name} {mac}"))
                .collect();
            found.sort_unstable();
            Ok::<_, String>(found)
        };
        let both = ["n1 52:54:00:00:00:01", "n2 52:54:00:00:00:02"].map(str::to_owned);
        assert_eq!(
            read("# ours\n525400000001\n\n52-54-00-00-00-02\n525400000003\n"),
            Ok(both.to_vec())
        );
        assert_eq!(
            read("n2 525400000002 525400000009\nn1 525400000001"),
            Ok(both.to_vec())
        );
        assert!(read("n1 x").unwrap_err().contains("MAC address"));
        assert!(
            read("01:00:5e:00:00:01")
                .unwrap_err()
                .contains("no address of a machine")
        );
    }
}
