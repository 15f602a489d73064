//! Plans as iPXE scripts. Pure: text out.
//!
//! The lines are those that the packaged iPXE (Debian 12) was seen to boot with, on BIOS and UEFI. Nothing
//! that a stranger can choose gets in unchecked: names are validated, and free text loses what iPXE would
//! interpret.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::facts::Arch;
use crate::catalog::NodeRecord;
use crate::names::{Iqn, Mac, NodeName};

/// What a node's boot script tells it of secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nothing: names are believed.
    None,
    /// Its own secret.
    #[default]
    Chap,
    /// Its own secret, and the one with which the head must prove itself.
    Mutual,
}

/// Where the machine asks again.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    /// `http://10.0.0.1:8068`.
    pub(crate) base: &'a str,
    pub(crate) mac: Mac,
    pub(crate) arch: Arch,
}

/// What the boot script needs beyond that.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    pub(crate) node: &'a NodeRecord,
    /// `debian12:3`.
    pub(crate) label: &'a str,
    /// The iSCSI portal told to the node.
    pub(crate) portal: SocketAddr,
    pub(crate) iqn_prefix: &'a str,
    /// What the node must know to log in.
    pub(crate) auth: Auth,
    /// CHAP name of the head, for mutual CHAP.
    pub(crate) head_user: &'a str,
}

/// The address of a machine's script.
pub(crate) fn boot_url(base: &str, mac: Mac, arch: Arch) -> String {
    format!("{base}/boot?mac={mac}&arch={arch}")
}

/// The script for an iPXE that came without saying who it is.
pub(crate) fn who(base: &str) -> String {
    let query = "mac=${netX/mac:hexhyp}&arch=${platform}-${buildarch}";
    format!(
        "#!ipxe\n\
         chain --replace --autofree {base}/boot?{query} ||\n\
         echo Reveille: the boot script of this machine could not be fetched from {base}\n\
         sleep 10\n\
         exit 1\n"
    )
}

/// Boots the node's disk. The error says what is wrong with the node, for the screen.
pub(crate) fn boot(ask: &Ask<'_>, disk: &Disk<'_>) -> Result<String, String> {
    let name = &disk.node.name;
    let target = Iqn::target_of(disk.iqn_prefix, name);
    let initiator = Iqn::initiator_of(disk.iqn_prefix, name);
    let IpAddr::V4(host) = disk.portal.ip().to_canonical() else {
        return Err("the iSCSI portal has no IPv4 address; set `[iscsi] listen` to one".to_owned());
    };
    let mut text = String::from("#!ipxe\n");
    line(
        &mut text,
        &format!("echo Reveille: {name} boots {}", plain(disk.label)),
    );
    // Beside a foreign DHCP server this is the only way to the iBFT's host name.
    line(&mut text, &format!("set netX/hostname {name} ||"));
    line(&mut text, &format!("set initiator-iqn {initiator}"));
    if disk.auth != Auth::None {
        credentials(&mut text, disk)?;
    }
    let port = disk.portal.port();
    line(
        &mut text,
        &format!("sanboot iscsi:{host}::{port}:0:{target} || goto failed"),
    );
    line(&mut text, ":failed");
    line(
        &mut text,
        &format!(
            "echo Reveille: the disk of {name} did not start: ${{errno}} - next try in 10 seconds"
        ),
    );
    again(&mut text, ask, 10, "failed");
    Ok(text)
}

/// What iPXE logs in with, and passes on in the iBFT. With the reverse pair set it demands that the head
/// proves itself, and so does the operating system after it.
fn credentials(text: &mut String, disk: &Disk<'_>) -> Result<(), String> {
    let node = disk.node;
    let mut secrets = vec![("", node.name.as_str(), &node.secret.0)];
    if disk.auth == Auth::Mutual {
        secrets.push(("reverse-", disk.head_user, &node.head_secret.0));
    }
    for (direction, user, secret) in secrets {
        if !is_token(secret) {
            let name = &node.name;
            return Err(format!(
                "the CHAP secret of {name} holds characters that iPXE cannot take; give it a new one"
            ));
        }
        line(text, &format!("set {direction}username {user}"));
        line(text, &format!("set {direction}password {secret}"));
    }
    Ok(())
}

/// Waits its turn.
pub(crate) fn wait(ask: &Ask<'_>, node: &NodeName, place: u32) -> String {
    let says = format!("{node} waits its turn to boot: place {place} in the queue");
    waiting(ask, &[says], 3)
}

/// Waits to be approved.
pub(crate) fn pending(ask: &Ask<'_>) -> String {
    let (mac, arch) = (ask.mac, ask.arch);
    let says = [
        format!("unknown machine {mac} ({arch}) waits for approval"),
        "on the head: reveille node approve".to_owned(),
    ];
    waiting(ask, &says, 5)
}

/// Waits for an image.
pub(crate) fn no_image(ask: &Ask<'_>, node: &NodeName) -> String {
    let says = [
        format!("{node} has no image"),
        format!("on the head: reveille node set {node} --image NAME"),
    ];
    waiting(ask, &says, 5)
}

/// Something failed; says what and tries again.
pub(crate) fn failed(ask: &Ask<'_>, reason: &str) -> String {
    waiting(ask, &[format!("cannot boot: {}", plain(reason))], 10)
}

/// A secret is not told: it says why, asks for an address anew (which makes an honest machine known
/// again, for instance after a restart of the head), and tries again.
pub(crate) fn refused(ask: &Ask<'_>, reason: &str) -> String {
    let mut text = String::from("#!ipxe\n");
    line(
        &mut text,
        &format!("echo Reveille: the script is refused: {}", plain(reason)),
    );
    line(&mut text, "sleep 5");
    line(&mut text, ":again");
    line(&mut text, "dhcp ||");
    again(&mut text, ask, 5, "again");
    text
}

/// On to the next boot device. A BIOS goes on when its boot program ends well; UEFI takes a good end for
/// "the user is done" and may stop in its menu, so it is told of a failure.
pub(crate) fn local(ask: &Ask<'_>) -> String {
    let end = if ask.arch.is_uefi() { 1 } else { 0 };
    format!("#!ipxe\necho Reveille: on to the next boot device\nexit {end}\n")
}

/// Says its lines (a screen has 80 columns), waits, asks again.
fn waiting(ask: &Ask<'_>, says: &[String], seconds: u32) -> String {
    let mut text = String::from("#!ipxe\n");
    for words in says {
        line(&mut text, &format!("echo Reveille: {words}"));
    }
    line(&mut text, ":again");
    again(&mut text, ask, seconds, "again");
    text
}

/// Sleeps, then replaces this script by its successor; from `label` on once more when that fails.
fn again(text: &mut String, ask: &Ask<'_>, seconds: u32, label: &str) {
    let url = boot_url(ask.base, ask.mac, ask.arch);
    line(text, &format!("sleep {seconds}"));
    line(
        text,
        &format!("chain --replace --autofree {url} || goto {label}"),
    );
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Text for the screen: what iPXE would take for a setting, a comment or an operator becomes a space.
fn plain(text: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_graphic() && !"${}#&|;\\\"'`".contains(c) {
            c
        } else {
            ' '
        }
    };
    text.chars().map(safe).take(300).collect()
}

/// A word that reaches an iPXE setting unchanged.
fn is_token(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._+=/:".contains(c);
    !text.is_empty() && text.chars().all(good)
}

#[cfg(test)]
mod test {
    use super::super::facts::test::MAC;
    use super::super::plan::test::node;
    use super::*;
    use crate::catalog::Secret;

    const ASK: Ask<'_> = Ask {
        base: "http://10.77.0.1:8068",
        mac: MAC,
        arch: Arch::Bios,
    };

    fn disk(node: &NodeRecord) -> Disk<'_> {
        Disk {
            node,
            label: "debian12:3",
            portal: "10.77.0.1:3260".parse().unwrap(),
            iqn_prefix: "iqn.2026-11.internal.reveille",
            auth: Auth::Chap,
            head_user: "reveille",
        }
    }

    #[test]
    fn the_boot_script_is_as_it_was_proven() {
        let text = boot(&ASK, &disk(&node("node001"))).unwrap();
        let golden = "\
#!ipxe
echo Reveille: node001 boots debian12:3
set netX/hostname node001 ||
set initiator-iqn iqn.2026-11.internal.reveille:node001.initiator
set username node001
set password abcdefghijkl1234
sanboot iscsi:10.77.0.1::3260:0:iqn.2026-11.internal.reveille:node001 || goto failed
:failed
echo Reveille: the disk of node001 did not start: ${errno} - next try in 10 seconds
sleep 10
chain --replace --autofree http://10.77.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios || goto failed
";
        assert_eq!(text, golden);
    }

    #[test]
    fn without_chap_no_secret_is_told() {
        let node = node("node001");
        let open = Disk {
            auth: Auth::None,
            ..disk(&node)
        };
        let text = boot(&ASK, &open).unwrap();
        assert!(!text.contains("password") && !text.contains("abcdefghijkl1234"));
    }

    #[test]
    fn mutual_chap_tells_both_directions() {
        let node = node("node001");
        let both = Disk {
            auth: Auth::Mutual,
            ..disk(&node)
        };
        let text = boot(&ASK, &both).unwrap();
        let lines = "\
set username node001
set password abcdefghijkl1234
set reverse-username reveille
set reverse-password 4321lkjihgfedcba
sanboot ";
        assert!(text.contains(lines), "{text}");
        let one_way = boot(&ASK, &disk(&node)).unwrap();
        assert!(!one_way.contains("reverse") && !one_way.contains("4321lkjihgfedcba"));
    }

    #[test]
    fn mutual_chap_without_a_secret_of_the_head_is_an_error() {
        let mut node = node("n1");
        node.head_secret = Secret::default();
        let both = Disk {
            auth: Auth::Mutual,
            ..disk(&node)
        };
        assert!(boot(&ASK, &both).unwrap_err().contains("CHAP secret of n1"));
    }

    #[test]
    fn waiting_says_the_place_and_asks_again() {
        let text = wait(&ASK, &node("node001").name, 12);
        let golden = "\
#!ipxe
echo Reveille: node001 waits its turn to boot: place 12 in the queue
:again
sleep 3
chain --replace --autofree http://10.77.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios || goto again
";
        assert_eq!(text, golden);
    }

    #[test]
    fn a_pending_machine_shows_its_address() {
        let text = pending(&ASK);
        assert!(text.contains("52:54:00:77:00:01 (bios)"));
        assert!(text.contains("waits for approval"));
        assert!(text.contains("sleep 5\nchain --replace"));
        assert!(no_image(&ASK, &node("n1").name).contains("reveille node set n1 --image"));
    }

    #[test]
    fn the_local_script_ends_as_each_firmware_wants_it() {
        assert!(local(&ASK).ends_with("\nexit 0\n"));
        let uefi = Ask {
            arch: Arch::UefiX64,
            ..ASK
        };
        assert!(local(&uefi).ends_with("\nexit 1\n"));
    }

    #[test]
    fn a_refusal_asks_for_an_address_anew() {
        let text = refused(&ASK, "no boot of it is under way");
        assert!(text.contains("echo Reveille: the script is refused: no boot of it"));
        assert!(text.contains(":again\ndhcp ||\nsleep 5\nchain "));
    }

    #[test]
    fn free_text_cannot_become_a_command() {
        let text = failed(&ASK, "x\nsanboot evil ${password} || exit # \u{e4}");
        assert_eq!(text.lines().count(), 5);
        let (_, body) = text.split_once('\n').unwrap();
        assert!(!body.contains(['$', '#', '\\', ';']), "{body}");
        assert_eq!(text.matches("||").count(), 1);
    }

    #[test]
    fn a_secret_that_would_break_the_script_is_an_error() {
        for bad in ["", "two words", "a\nb", "${x}"] {
            let mut node = node("n1");
            node.secret = Secret(bad.into());
            assert!(
                boot(&ASK, &disk(&node))
                    .unwrap_err()
                    .contains("CHAP secret of n1")
            );
        }
    }

    #[test]
    fn every_script_begins_with_the_mark_and_fits_one_screen_line_each() {
        let node = node("n1");
        let texts = [
            boot(&ASK, &disk(&node)).unwrap(),
            wait(&ASK, &node.name, 1),
            pending(&ASK),
            no_image(&ASK, &node.name),
            failed(&ASK, "x"),
            refused(&ASK, "x"),
            local(&ASK),
            who(ASK.base),
        ];
        for text in texts {
            assert!(text.starts_with("#!ipxe\n") && text.ends_with('\n'));
            assert!(text.is_ascii());
        }
    }
}
