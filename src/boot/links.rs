//! The network interfaces of this machine, and UDP sockets on them. A shell.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::error::{BootError, BootErrorKind};
use crate::limits;

/// An interface with its first IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) netmask: Ipv4Addr,
    /// It is up, can broadcast, and is not the loopback.
    pub(crate) usable: bool,
}

/// Every interface that has an IPv4 address, in the kernel's order.
pub(crate) fn interfaces() -> Result<Vec<Interface>, BootError> {
    let all = nix::ifaddrs::getifaddrs().map_err(|errno| {
        let text = "the network interfaces of this machine cannot be listed";
        BootError::io(BootErrorKind::Interface, errno.into(), text)
    })?;
    let mut found: Vec<Interface> = Vec::new();
    for entry in all {
        let ip = |a: Option<nix::sys::socket::SockaddrStorage>| {
            a.and_then(|a| a.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        let Some(address) = ip(entry.address) else {
            continue;
        };
        // A label like `eth0:1` is a further address of `eth0`.
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        if found.iter().any(|i| i.name == name) {
            continue;
        }
        let flags = entry.flags;
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST;
        found.push(Interface {
            name: name.to_owned(),
            address,
            netmask: ip(entry.netmask).unwrap_or(Ipv4Addr::BROADCAST),
            usable: flags.contains(up) && !flags.contains(InterfaceFlags::IFF_LOOPBACK),
        });
    }
    Ok(found)
}

/// The interfaces that DHCP serves: those named, or every usable one that `fits`.
pub(crate) fn choose(
    names: &[String],
    all: &[Interface],
    fits: impl Fn(&Interface) -> bool,
) -> Result<Vec<Interface>, BootError> {
    if names.is_empty() {
        let usable = all.iter().filter(|i| i.usable && fits(i));
        return Ok(usable.cloned().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        let Some(interface) = all.iter().find(|i| i.name == *name) else {
            let there: Vec<&str> = all.iter().map(|i| i.name.as_str()).collect();
            return Err(BootError::new(
                BootErrorKind::Interface,
                format!(
                    "the interface `{name}` of `[boot] interfaces` is not there or has no IPv4 address; \
                     give it one (`ip address add`), or choose among: {}",
                    there.join(", ")
                ),
            ));
        };
        chosen.push(interface.clone());
    }
    Ok(chosen)
}

/// A UDP socket on `address`, tied to one interface when `device` is given.
pub(crate) fn udp(
    what: &str,
    address: SocketAddr,
    device: Option<&str>,
) -> Result<UdpSocket, BootError> {
    open(address, device).map_err(|error| port_error(what, address, device, error))
}

fn open(address: SocketAddr, device: Option<&str>) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_broadcast(true)?;
    // The kernel gives what it may; a smaller buffer loses datagrams only in a storm, and clients repeat.
    let _ = socket.set_recv_buffer_size(limits::BOOT_SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(limits::BOOT_SOCKET_BYTES);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Says what to do when a port cannot be had.
pub(crate) fn port_error(
    what: &str,
    address: SocketAddr,
    device: Option<&str>,
    error: io::Error,
) -> BootError {
    let place = device.map_or_else(String::new, |d| format!(" on {d}"));
    let next = match error.kind() {
        io::ErrorKind::AddrInUse if what == "DHCP" => {
            "another DHCP server has it on this machine (see `ss -lunp`). Stop it and let Reveille be the \
             server (`[boot] dhcp = \"server\"`), or run Reveille's ProxyDHCP on another machine: two \
             cannot share the port, for each would miss requests meant for the other"
                .to_owned()
        }
        io::ErrorKind::AddrInUse => {
            let flag = if what == "HTTP" { "-ltnp" } else { "-lunp" };
            let port = address.port();
            format!(
                "another program has it: find it with `ss {flag} 'sport = :{port}'` and stop it, \
                 or give Reveille another address"
            )
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE (and raw interfaces CAP_NET_RAW)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address".to_owned()
        }
        _ => "see the cause".to_owned(),
    };
    let context = format!("{what} cannot listen on {address}{place}: {error}; {next}");
    BootError::io(BootErrorKind::Port, error, context)
}

/// The peer's address, when it is IPv4.
pub(crate) fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, address.port())),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn interface(name: &str, low: u8, usable: bool) -> Interface {
        Interface {
            name: name.into(),
            address: Ipv4Addr::new(10, 0, low, 1),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            usable,
        }
    }

    #[test]
    fn the_loopback_is_found_and_not_chosen_by_itself() {
        let all = interfaces().unwrap();
        let lo = all.iter().find(|i| i.name == "lo").expect("a loopback");
        assert_eq!(lo.address, Ipv4Addr::LOCALHOST);
        assert!(!lo.usable);
    }

    #[test]
    fn named_interfaces_are_taken_and_others_by_fitness() {
        let all = [
            interface("lo", 0, false),
            interface("eth0", 1, true),
            interface("eth1", 2, true),
        ];
        let named = choose(&["lo".into()], &all, |_| false).unwrap();
        assert_eq!(named[0].name, "lo");
        let fit = choose(&[], &all, |i| i.address.octets()[2] == 2).unwrap();
        assert_eq!(fit.len(), 1);
        let error = choose(&["eth7".into()], &all, |_| true).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`eth7`") && text.contains("lo, eth0, eth1"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_next_step() {
        let first = udp("TFTP", "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let taken = first.local_addr().unwrap();
        let error = udp("TFTP", taken, None).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), BootErrorKind::Port);
        assert!(
            text.contains(&taken.to_string()) && text.contains("ss -lunp"),
            "{text}"
        );
    }
}
