//! Where a head is reached: what SendTargets tells. Pure.

use std::net::SocketAddr;

/// The portals to tell an initiator that reached us at `reached`: that one first, then those other listeners
/// that it may reach too. A listener on every address is told as the address that was reached; never as
/// 0.0.0.0. Loopback is told only to who came over loopback, and only one family to each.
#[must_use]
pub(super) fn told(reached: SocketAddr, listeners: &[SocketAddr]) -> Vec<SocketAddr> {
    let reached = SocketAddr::new(reached.ip().to_canonical(), reached.port());
    let mut all = vec![reached];
    for listener in listeners {
        let ip = match listener.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() == reached.is_ipv4() => reached.ip(),
            ip => ip,
        };
        let portal = SocketAddr::new(ip, listener.port());
        let reachable = !ip.is_unspecified()
            && ip.is_ipv4() == reached.is_ipv4()
            && ip.is_loopback() == reached.ip().is_loopback();
        if reachable && !all.contains(&portal) {
            all.push(portal);
        }
    }
    all
}

#[cfg(test)]
mod test {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_portal_that_was_reached_comes_first() {
        let listeners = addresses(&["10.0.0.1:3260", "10.1.0.1:3260", "10.1.0.1:3261"]);
        let reached = "10.1.0.1:3260".parse().unwrap();
        let expected = addresses(&["10.1.0.1:3260", "10.0.0.1:3260", "10.1.0.1:3261"]);
        assert_eq!(told(reached, &listeners), expected);
    }

    #[test]
    fn a_listener_on_every_address_is_told_as_the_one_reached() {
        let listeners = addresses(&["0.0.0.0:3260", "0.0.0.0:3261", "[::]:3260"]);
        let reached = "10.0.0.1:3260".parse().unwrap();
        let expected = addresses(&["10.0.0.1:3260", "10.0.0.1:3261"]);
        assert_eq!(told(reached, &listeners), expected);
        let mapped = "[::ffff:10.0.0.1]:3260".parse().unwrap();
        assert_eq!(told(mapped, &listeners), expected);
        let six = "[fd00::1]:3260".parse().unwrap();
        assert_eq!(told(six, &listeners), addresses(&["[fd00::1]:3260"]));
    }

    #[test]
    fn loopback_is_told_to_loopback_only() {
        let listeners = addresses(&["127.0.0.1:3260", "10.0.0.1:3260", "127.0.0.1:3261"]);
        let far = "10.0.0.1:3260".parse().unwrap();
        assert_eq!(told(far, &listeners), addresses(&["10.0.0.1:3260"]));
        let near = "127.0.0.1:3261".parse().unwrap();
        let expected = addresses(&["127.0.0.1:3261", "127.0.0.1:3260"]);
        assert_eq!(told(near, &listeners), expected);
    }
}
