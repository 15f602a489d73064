//! What a head's boot script makes a node do: the few commands of iPXE that Reveille's scripts are made of. Pure.
//!
//! A script either starts a disk (`sanboot`), or says something, sleeps and is replaced by its successor (`chain`), or
//! leaves (`exit`). Anything else is not understood and told so: a virtual node must not boot where a real one would
//! not.

use std::net::{IpAddr, SocketAddr};

use crate::iscsi::login::Credentials;

/// A script, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Start this disk.
    Boot(Box<Disk>),
    /// Wait so many seconds, then fetch the successor.
    Wait {
        seconds: u64,
        /// What the screen says meanwhile.
        says: String,
        /// For what.
        why: Waits,
        /// `http://HOST:PORT/PATH`.
        next: String,
    },
    /// On to another boot device.
    Leave {
        /// What the screen says.
        says: String,
    },
}

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Its turn among others, which comes by itself.
    Turn,
    /// The end of some trouble of the head, which may pass.
    Trouble,
    /// Somebody who approves it, gives it an image, or lets it in.
    Somebody,
}

impl Waits {
    fn of(says: &str) -> Self {
        if says.contains(" waits its turn ") {
            Self::Turn
        } else if says.starts_with("cannot boot") {
            Self::Trouble
        } else {
            Self::Somebody
        }
    }
}

/// What iPXE logs in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Portal.
    pub(crate) portal: SocketAddr,
    /// TargetName.
    pub(crate) target: String,
    /// LUN.
    pub(crate) lun: u8,
    /// InitiatorName, if the script sets one.
    pub(crate) initiator: Option<String>,
    /// CHAP of the node.
    pub(crate) chap: Option<(String, String)>,
    /// CHAP of the target, for mutual CHAP.
    pub(crate) mutual: Option<(String, String)>,
}

impl Disk {
    /// A user and a secret as the login takes them.
    pub(crate) fn credentials(pair: &(String, String)) -> Credentials {
        Credentials {
            user: pair.0.clone(),
            secret: pair.1.clone().into_bytes(),
        }
    }
}

/// Settings that were set.
#[derive(Debug, Default)]
struct Settings {
    initiator: Option<String>,
    names: [Option<String>; 2],
    secrets: [Option<String>; 2],
}

/// Reads a script. The error says what a node would not understand.
pub(super) fn read(text: &str) -> Result<Script, String> {
    let mut lines = text.lines();
    if !lines.next().is_some_and(|line| line.starts_with("#!ipxe")) {
        return Err("what came is no iPXE script".to_owned());
    }
    let (mut set, mut says, mut seconds) = (Settings::default(), Vec::new(), 0u64);
    for line in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ':']) {
            continue;
        }
        // What follows `||` is for when the command fails.
        let command = line.split("||").next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        match *words.as_slice() {
            ["echo", ..] => says.push(said(command)),
            ["set", name, value] => set.take(name, value)?,
            ["sleep", number] => {
                let number: u64 = number.parse().map_err(|_| unclear(line))?;
                seconds = seconds.saturating_add(number);
            }
            // An address for the machine is another stage's.
            ["dhcp", ..] => {}
            ["sanboot", root] => return disk(root, set).map(|disk| Script::Boot(Box::new(disk))),
            ["chain", .., url] => {
                let says = says.join("; ");
                let why = Waits::of(&says);
                let next = url.to_owned();
                return Ok(Script::Wait {
                    seconds,
                    says,
                    why,
                    next,
                });
            }
            ["exit", ..] => {
                return Ok(Script::Leave {
                    says: says.join("; "),
                });
            }
            _ => return Err(unclear(line)),
        }
    }
    Err("the script ends without starting a disk".to_owned())
}

fn unclear(line: &str) -> String {
    let some: String = line.chars().take(80).collect();
    format!(
        "the script has a line that is not understood: `{}`",
        some.escape_debug()
    )
}

/// The words of an `echo`, without the name that stands before each.
fn said(command: &str) -> String {
    let words = command
        .trim_start()
        .strip_prefix("echo")
        .unwrap_or_default();
    let words = words.trim();
    let words = words.strip_prefix("Reveille: ").unwrap_or(words);
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

impl Settings {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let place = match name {
            "initiator-iqn" => &mut self.initiator,
            "username" => &mut self.names[0],
            "password" => &mut self.secrets[0],
            "reverse-username" => &mut self.names[1],
            "reverse-password" => &mut self.secrets[1],
            "netX/hostname" => return Ok(()),
            other => {
                let some: String = other.chars().take(40).collect();
                return Err(format!(
                    "the script sets `{}`, which is not understood",
                    some.escape_debug()
                ));
            }
        };
        *place = Some(value.to_owned());
        Ok(())
    }
}

/// A root path, `iscsi:SERVER:PROTOCOL:PORT:LUN:TARGET` (RFC 4173, 5), with what was set before.
fn disk(root: &str, set: Settings) -> Result<Disk, String> {
    let unclear = || {
        format!(
            "the script starts `{}`, which is no iSCSI disk",
            root.escape_debug()
        )
    };
    let rest = root.strip_prefix("iscsi:").ok_or_else(unclear)?;
    let (host, rest) = match rest.strip_prefix('[') {
        Some(v6) => v6.split_once("]:").ok_or_else(unclear)?,
        None => rest.split_once(':').ok_or_else(unclear)?,
    };
    let mut parts = rest.splitn(4, ':');
    let mut part = || parts.next().ok_or_else(unclear);
    let (_protocol, port, lun, target) = (part()?, part()?, part()?, part()?);
    let number = |text: &str, usual: u16, base: u32| match text {
        "" => Some(usual),
        text => u16::from_str_radix(text, base).ok(),
    };
    let host: IpAddr = host.parse().map_err(|_| unclear())?;
    let port = number(port, 3260, 10).ok_or_else(unclear)?;
    // Hexadecimal digits; one group of the four that may be there.
    let lun = number(lun, 0, 16).and_then(|lun| u8::try_from(lun).ok());
    let lun = lun.ok_or_else(unclear)?;
    if target.is_empty() {
        return Err(unclear());
    }
    let [name, reverse_name] = set.names;
    let [secret, reverse_secret] = set.secrets;
    Ok(Disk {
        portal: SocketAddr::new(host, port),
        target: target.to_owned(),
        lun,
        initiator: set.initiator,
        chap: name.zip(secret),
        mutual: reverse_name.zip(reverse_secret),
    })
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const BOOT: &str = "\
#!ipxe
echo Reveille: node001 boots debian12:3
set netX/hostname node001 ||
set initiator-iqn iqn.2026-11.internal.reveille:node001.initiator
set username node001
set password abcdefghijkl1234
set reverse-username reveille
set reverse-password 4321lkjihgfedcba
sanboot iscsi:10.77.0.1::3261:0:iqn.2026-11.internal.reveille:node001 || goto failed
:failed
echo Reveille: the disk of node001 did not start: ${errno} - next try in 10 seconds
sleep 10
chain --replace --autofree http://10.77.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios || goto failed
";

    fn pair(user: &str, secret: &str) -> Option<(String, String)> {
        Some((user.to_owned(), secret.to_owned()))
    }

    #[test]
    fn a_boot_script_says_disk_names_and_secrets() {
        let Script::Boot(disk) = read(BOOT).unwrap() else {
            panic!("no boot");
        };
        let wanted = Disk {
            portal: "10.77.0.1:3261".parse().unwrap(),
            target: "iqn.2026-11.internal.reveille:node001".into(),
            lun: 0,
            initiator: Some("iqn.2026-11.internal.reveille:node001.initiator".into()),
            chap: pair("node001", "abcdefghijkl1234"),
            mutual: pair("reveille", "4321lkjihgfedcba"),
        };
        assert_eq!(*disk, wanted);
    }

    #[test]
    fn a_turn_is_waited_for_and_other_waits_say_why() {
        let text = "#!ipxe\necho Reveille: n1 waits its turn to boot: place 12 in the queue\n:again\nsleep 3\n\
                    chain --replace --autofree http://10.77.0.1:8068/boot?mac=x&arch=bios || goto again\n";
        let wanted = Script::Wait {
            seconds: 3,
            says: "n1 waits its turn to boot: place 12 in the queue".into(),
            why: Waits::Turn,
            next: "http://10.77.0.1:8068/boot?mac=x&arch=bios".into(),
        };
        assert_eq!(read(text), Ok(wanted));
        let text = "#!ipxe\necho Reveille: unknown machine x (bios) waits for approval\n\
                    echo Reveille: on the head: reveille node approve\n:again\nsleep 5\nchain --replace http://h/b\n";
        let Ok(Script::Wait { says, why, .. }) = read(text) else {
            panic!("no wait");
        };
        assert_eq!(why, Waits::Somebody);
        assert_eq!(
            says,
            "unknown machine x (bios) waits for approval; on the head: reveille node approve"
        );
        let text =
            "#!ipxe\necho Reveille: cannot boot: x\n:again\nsleep 10\nchain --replace http://h/b\n";
        assert!(matches!(
            read(text),
            Ok(Script::Wait {
                why: Waits::Trouble,
                ..
            })
        ));
        let leave = read("#!ipxe\necho Reveille: on to the next boot device\nexit 1\n");
        assert_eq!(
            leave,
            Ok(Script::Leave {
                says: "on to the next boot device".into()
            })
        );
    }

    #[test]
    fn root_paths_have_their_usual_values_and_nothing_senseless() {
        let portal = |root: &str| {
            disk(root, Settings::default()).map(|disk| (disk.portal.to_string(), disk.lun))
        };
        assert_eq!(
            portal("iscsi:10.0.0.1::::iqn.2026-11.a:b"),
            Ok(("10.0.0.1:3260".into(), 0))
        );
        assert_eq!(
            portal("iscsi:[fd00::1]:6:3260:1f:iqn.x"),
            Ok(("[fd00::1]:3260".into(), 31))
        );
        for bad in [
            "nfs:10.0.0.1",
            "iscsi:host::3260:0:iqn",
            "iscsi:10.0.0.1::x:0:iqn",
            "iscsi:10.0.0.1::1:0:",
            "iscsi:1.1.1.1:::100:i",
        ] {
            assert!(portal(bad).unwrap_err().contains("no iSCSI disk"), "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for (text, words) in [
            ("<html>", "no iPXE script"),
            ("#!ipxe\necho hello\n", "without starting a disk"),
            (
                "#!ipxe\nkernel http://x/vmlinuz\n",
                "`kernel http://x/vmlinuz`",
            ),
            ("#!ipxe\nset keep-san 1\n", "`keep-san`"),
            ("#!ipxe\nsleep soon\n", "`sleep soon`"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn no_script_makes_the_reader_panic(text in "(#!ipxe\n)?[ -~\n\u{e4}]{0,200}") {
            let _ = read(&text);
        }
    }
}
