//! What a machine is to do, and what it is told next. Pure, and the only place with opinions: DHCP,
//! ProxyDHCP, port 4011, TFTP and HTTP all render the plan that is made here, so they cannot disagree.

use super::context::Progress;
use super::facts::{Arch, Client, Facts, MessageType};
use crate::catalog::{BootMode, LoaderPolicy, NodeRecord};
use crate::head::Admission;
use crate::limits;

/// What the machine is to do in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody's node: it waits on its screen until it is approved.
    Pending,
    /// A node that no image was given to: it waits until one is.
    NoImage,
    /// Its wave is not on yet.
    Wait { place: u32 },
    /// On to the next boot device, at once.
    Local,
    /// Boot its image.
    Image,
}

/// What it is told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing but an address: it is an operating system.
    Address,
    /// Fetch this network boot program.
    Loader(&'static str),
    /// Fetch the script.
    Script,
    /// It cannot be helped.
    Stuck(Stuck),
}

/// Why it cannot be helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// No loader for its architecture.
    NoLoader(Arch),
    /// Its ROM knows TFTP only, and TFTP is switched off.
    NoTftp,
}

impl Stuck {
    /// The cause and the next step.
    pub(crate) fn explain(self) -> (String, String) {
        match self {
            Self::NoLoader(arch) => (
                format!("there is no network boot program for {arch} firmware"),
                format!(
                    "put {} into the directory of `[boot] loaders`, or install the package `ipxe`",
                    loaders_of(arch).first().unwrap_or(&"an iPXE for it"),
                ),
            ),
            Self::NoTftp => (
                "its PXE ROM fetches programs by TFTP only, and TFTP is switched off".to_owned(),
                "set `[boot] tftp` to an address, for instance `0.0.0.0:69`".to_owned(),
            ),
        }
    }
}

/// What this head has to give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// The loader for the machine's architecture.
    pub(crate) loader: Option<&'static str>,
    /// TFTP is served.
    pub(crate) tftp: bool,
}

/// The plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootPlan {
    pub(crate) decision: Decision,
    pub(crate) step: Step,
}

/// Makes the plan for one request.
pub(crate) fn plan(
    facts: &Facts,
    node: Option<&NodeRecord>,
    admission: Admission,
    progress: Progress,
    means: Means,
) -> BootPlan {
    BootPlan {
        decision: decide(node, admission),
        step: step(facts, node, progress, means),
    }
}

/// What the machine is to do in the end.
pub(crate) fn decide(node: Option<&NodeRecord>, admission: Admission) -> Decision {
    let Some(node) = node else {
        return Decision::Pending;
    };
    // A node that boots its own disk costs this head nothing and waits for no wave.
    if node.boot == BootMode::Local {
        return Decision::Local;
    }
    if node.image.is_none() {
        return Decision::NoImage;
    }
    match admission {
        Admission::Wait { place } => Decision::Wait { place },
        Admission::Admit => Decision::Image,
    }
}

fn step(facts: &Facts, node: Option<&NodeRecord>, progress: Progress, means: Means) -> Step {
    let loader = means.loader;
    match facts.client {
        Client::Plain => Step::Address,
        // Whatever it is to do, a plain ROM needs a loader that can say it on the screen.
        Client::Pxe if !means.tftp => Step::Stuck(Stuck::NoTftp),
        Client::Pxe | Client::Http => {
            loader.map_or(Step::Stuck(Stuck::NoLoader(facts.arch)), Step::Loader)
        }
        Client::Ipxe(features) => {
            let policy = node.map_or(LoaderPolicy::Auto, |n| n.loader);
            let wanted = policy == LoaderPolicy::Chain || !features.suffice();
            let chain = wanted && !progress.loader_fresh && !progress.circling;
            loader.filter(|_| chain).map_or(Step::Script, Step::Loader)
        }
    }
}

/// Should this request get no answer now? While many loaders are under way, a PXE ROM that has just begun
/// to ask is left to its retry schedule; one that has asked for long is always answered.
pub(crate) fn defer(facts: &Facts, loaders_under_way: usize) -> bool {
    facts.client == Client::Pxe
        && facts.message == MessageType::Discover
        && facts.secs < limits::PXE_PATIENCE_S
        && loaders_under_way >= limits::LOADERS_BUSY
}

/// File names of loaders by architecture, the best first. Those of the packages `ipxe` (Debian, Ubuntu) and
/// `ipxe-bootimgs` (Fedora) are among them.
pub(crate) const fn loaders_of(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Bios => &["undionly.kpxe", "undionly.kkpxe"],
        Arch::UefiX64 => &[
            "ipxe.efi",
            "ipxe-x86_64.efi",
            "snponly.efi",
            "ipxe-snponly-x86_64.efi",
        ],
        Arch::UefiArm64 => &["ipxe-arm64.efi", "snponly-arm64.efi"],
        Arch::UefiIa32 => &["ipxe-ia32.efi", "ipxe-i386.efi"],
        Arch::UefiArm32 => &["ipxe-arm32.efi"],
        Arch::Other(_) => &[],
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::super::facts::test::{http, ipxe, pxe};
    use super::super::facts::{Features, test::plain};
    use super::*;
    use crate::catalog::{ImageRef, LayerMode, Secret};
    use crate::names::{LayerId, NodeName};
    use crate::units::UnixMillis;

    pub(crate) fn node(name: &str) -> NodeRecord {
        NodeRecord {
            name: NodeName::parse(name).unwrap(),
            layer: LayerId(17),
            macs: vec![super::super::facts::test::MAC],
            ip: None,
            image: Some(ImageRef {
                name: "debian12".into(),
                version: None,
            }),
            mode: LayerMode::Ephemeral,
            boot: BootMode::Image,
            loader: LoaderPolicy::Auto,
            disk: crate::catalog::DiskTraits::default(),
            layer_limit: None,
            layer_warn: None,
            power: None,
            profile: None,
            inherits: crate::catalog::SettingSet::default(),
            secret: Secret("abcdefghijkl1234".into()),
            head_secret: Secret("4321lkjihgfedcba".into()),
            disk_uuid: "00000000-0000-0000-0000-000000000001".into(),
            added: UnixMillis(0),
        }
    }

    const MEANS: Means = Means {
        loader: Some("ipxe.efi"),
        tftp: true,
    };

    fn ask(packet: &super::super::packet::Packet, node: Option<&NodeRecord>) -> BootPlan {
        let facts = Facts::of(packet).unwrap();
        plan(&facts, node, Admission::Admit, Progress::default(), MEANS)
    }

    #[test]
    fn every_state_has_its_decision() {
        let image = node("n1");
        let local = NodeRecord {
            boot: BootMode::Local,
            ..node("n1")
        };
        let bare = NodeRecord {
            image: None,
            ..node("n1")
        };
        let wait = Admission::Wait { place: 4 };
        let table = [
            (None, Admission::Admit, Decision::Pending),
            (None, wait, Decision::Pending),
            (Some(&image), Admission::Admit, Decision::Image),
            (Some(&image), wait, Decision::Wait { place: 4 }),
            (Some(&local), Admission::Admit, Decision::Local),
            (Some(&local), wait, Decision::Local),
            (Some(&bare), Admission::Admit, Decision::NoImage),
            (Some(&bare), wait, Decision::NoImage),
        ];
        for (node, admission, decision) in table {
            assert_eq!(decide(node, admission), decision);
        }
    }

    #[test]
    fn every_client_of_every_architecture_has_its_step_in_every_state() {
        let known = node("n1");
        for arch in [0, 6, 7, 9, 11, 15, 16, 19, 27] {
            for who in [None, Some(&known)] {
                assert_eq!(ask(&pxe(1, arch), who).step, Step::Loader("ipxe.efi"));
                assert_eq!(ask(&http(1, arch), who).step, Step::Loader("ipxe.efi"));
                assert_eq!(ask(&ipxe(1, arch), who).step, Step::Script);
                assert_eq!(ask(&plain(1), who).step, Step::Address);
            }
        }
    }

    #[test]
    fn each_architecture_has_its_own_loaders() {
        assert_eq!(loaders_of(Arch::Bios)[0], "undionly.kpxe");
        assert_eq!(loaders_of(Arch::UefiX64)[0], "ipxe.efi");
        assert_eq!(loaders_of(Arch::UefiArm64)[0], "ipxe-arm64.efi");
        assert!(loaders_of(Arch::Other(99)).is_empty());
    }

    #[test]
    fn a_rom_that_cannot_be_helped_is_told_why() {
        let facts = Facts::of(&pxe(1, 11)).unwrap();
        let none = Means {
            loader: None,
            tftp: true,
        };
        let made = plan(&facts, None, Admission::Admit, Progress::default(), none);
        assert_eq!(made.step, Step::Stuck(Stuck::NoLoader(Arch::UefiArm64)));
        assert!(
            Stuck::NoLoader(Arch::UefiArm64)
                .explain()
                .1
                .contains("ipxe-arm64.efi")
        );
        let off = Means {
            tftp: false,
            ..MEANS
        };
        let made = plan(&facts, None, Admission::Admit, Progress::default(), off);
        assert_eq!(made.step, Step::Stuck(Stuck::NoTftp));
        // UEFI HTTP boot needs no TFTP.
        let facts = Facts::of(&http(1, 16)).unwrap();
        let made = plan(&facts, None, Admission::Admit, Progress::default(), off);
        assert_eq!(made.step, Step::Loader("ipxe.efi"));
    }

    #[test]
    fn ipxe_is_chained_by_policy_once_and_not_in_circles() {
        let chained = NodeRecord {
            loader: LoaderPolicy::Chain,
            ..node("n1")
        };
        let facts = Facts::of(&ipxe(1, 0)).unwrap();
        let make =
            |progress, means| plan(&facts, Some(&chained), Admission::Admit, progress, means);
        let first = make(Progress::default(), MEANS);
        assert_eq!(first.step, Step::Loader("ipxe.efi"));
        for (loader_fresh, circling) in [(true, false), (false, true)] {
            let progress = Progress {
                loader_fresh,
                circling,
            };
            assert_eq!(make(progress, MEANS).step, Step::Script);
        }
        let none = Means {
            loader: None,
            tftp: true,
        };
        assert_eq!(make(Progress::default(), none).step, Step::Script);
    }

    #[test]
    fn ipxe_without_what_we_need_gets_our_loader() {
        let mut facts = Facts::of(&ipxe(1, 0)).unwrap();
        for (http, iscsi) in [(false, true), (true, false), (false, false)] {
            facts.client = Client::Ipxe(Features { http, iscsi });
            let made = plan(&facts, None, Admission::Admit, Progress::default(), MEANS);
            assert_eq!(made.step, Step::Loader("ipxe.efi"));
        }
    }

    #[test]
    fn only_fresh_pxe_requests_are_deferred_and_only_when_busy() {
        let mut facts = Facts::of(&pxe(1, 0)).unwrap();
        assert!(!defer(&facts, limits::LOADERS_BUSY - 1));
        assert!(defer(&facts, limits::LOADERS_BUSY));
        facts.secs = limits::PXE_PATIENCE_S;
        assert!(!defer(&facts, usize::MAX));
        assert!(!defer(&Facts::of(&pxe(3, 0)).unwrap(), usize::MAX));
        assert!(!defer(&Facts::of(&ipxe(1, 0)).unwrap(), usize::MAX));
        assert!(!defer(&Facts::of(&plain(1)).unwrap(), usize::MAX));
    }

    /// PXE 2.1 2.2.4: a client asks at 0, 4, 12, 28 and 60 seconds. 1,000 clients powered at one instant,
    /// a head that carries few at a time: all are answered before their schedule ends.
    #[test]
    fn a_thousand_clients_powered_at_once_all_get_their_answer() {
        let (mut waiting, mut busy_until) = (1000_usize, Vec::<u16>::new());
        for second in [0_u16, 4, 12, 28] {
            busy_until.retain(|end| *end > second);
            let mut facts = Facts::of(&pxe(1, 0)).unwrap();
            facts.secs = second;
            // This head sends 200 loaders at a time, each in 6 seconds; scaled to the real bound.
            let mut deferred = |_: &usize| {
                let load = busy_until.len() * limits::LOADERS_BUSY / 200;
                let answered = !defer(&facts, load);
                if answered {
                    busy_until.push(second + 6);
                }
                !answered
            };
            waiting = (0..waiting).filter(|n| deferred(n)).count();
        }
        assert_eq!(waiting, 0);
    }
}
