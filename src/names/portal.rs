//! Where an iSCSI target is reached.

use std::net::SocketAddr;

use super::NameError;

/// The port of iSCSI (RFC 7143 13.8).
const PORT: u16 = 3260;

/// `ADDR[:PORT]` as the `TargetAddress` of a redirect: a number, with its port. iPXE dials a wrong port without
/// one, and EDK2 takes no host name.
///
/// # Errors
/// It is no such address, or no place that a node can go to.
pub fn parse_portal(text: &str) -> Result<SocketAddr, NameError> {
    let wrong = |why: &str| {
        let why = format!("{why}, like 10.0.0.2 or 10.0.0.2:3260");
        Err(NameError::new("portal", text, why))
    };
    let address = match (text.parse(), text.parse()) {
        (Ok(address), _) => address,
        (Err(_), Ok(ip)) => SocketAddr::new(ip, PORT),
        _ => return wrong("must be an IP address with or without a port"),
    };
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return wrong("is no place that a node can go to; name a head's own address");
    }
    Ok(address)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_redirect_names_a_number_and_a_port() {
        for (text, address) in [
            ("10.0.0.2", "10.0.0.2:3260"),
            ("10.0.0.2:3333", "10.0.0.2:3333"),
            ("fd00::2", "[fd00::2]:3260"),
            ("[fd00::2]:1", "[fd00::2]:1"),
        ] {
            assert_eq!(parse_portal(text).unwrap().to_string(), address);
        }
        for bad in [
            "",
            "head2",
            "head2:3260",
            "0.0.0.0",
            "10.0.0.2:0",
            "224.0.0.1",
            "10.0.0.2,1",
        ] {
            assert!(parse_portal(bad).is_err(), "{bad}");
        }
    }
}
