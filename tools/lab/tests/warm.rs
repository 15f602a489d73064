//! Warm data with real boots: a boot is recorded by itself, its profile outlives the head, and the next boots find
//! in memory what they read. Needs root and QEMU, and the release build of the programs, as whole boots do.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use lab::head::{power_command, tool};
use lab::{Head, HeadSpec, Kind, Lab, Node, NodeSpec, golden, proc};
use serde_json::Value;

// Emulated machines take their time.
const BOOT: &str = "900";
const SHELL: Duration = Duration::from_secs(600);
const CHUNK: u64 = 64 * 1024;

struct Site {
    // Ended first, whatever happens.
    head: Head,
    node: Node,
    lab: Lab,
}

/// What a head has read so far.
#[derive(Clone, Copy, Debug)]
struct Reads {
    /// Bytes from the medium, by whatever part of the head.
    medium: u64,
    /// Bytes brought in ahead of nodes.
    ahead: u64,
    /// READs of nodes that were answered from memory.
    warm: u64,
    /// READs of nodes that had to wait for the medium.
    cold: u64,
}

impl Reads {
    fn since(self, before: Self) -> Self {
        Self {
            medium: self.medium - before.medium,
            ahead: self.ahead - before.ahead,
            warm: self.warm - before.warm,
            cold: self.cold - before.cold,
        }
    }
}

impl Reads {
    /// A boot that found in memory what the `cold` one had to wait for.
    fn was_warm_after(self, cold: Self) {
        assert!(
            self.cold * 4 < cold.cold && self.warm > self.cold * 4,
            "the node waited for the medium: {self:?} after {cold:?}"
        );
        // Where the kernel took memory back meanwhile, some of it was read again, ahead of the node.
        assert!(
            self.ahead > 0 || self.medium * 4 < cold.medium,
            "the medium was read: {self:?} after {cold:?}"
        );
    }
}

impl Site {
    /// A head that is not running, with the golden image, and one machine that boots it.
    fn new() -> Self {
        let image = golden::debian12().unwrap();
        let lab = Lab::new("warm").unwrap();
        let program = tool("reveille").unwrap();
        let head = Head::prepare(&lab, HeadSpec::standard(&lab, &program)).unwrap();
        let image = image.to_string_lossy();
        head.run(&["image", "import", &image, "--name", "debian12"])
            .unwrap();
        let node = lab.add_node(&NodeSpec::new(1, Kind::Bios)).unwrap();
        let (mac, power) = (node.spec().mac(), power_command().unwrap());
        let add = ["node", "add", "node1", "--image", "debian12"];
        head.run(&[&add[..], &["--mac", &mac, "--power", &power]].concat())
            .unwrap();
        Self { head, node, lab }
    }

    /// Starts the head with no chunk in memory.
    fn start_cold(&mut self) {
        self.head.stop().unwrap();
        let packs = self.head.state().join("store/images/packs");
        assert!(forget(&packs) > 0, "the image has no packs");
        self.head.start().unwrap();
    }

    fn reads(&self) -> Reads {
        let metrics = self.head.run(&["metrics"]).unwrap();
        let counter = |name: &str| -> u64 {
            let found = metrics.lines().find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == name).then(|| value.parse().unwrap())
            });
            found.unwrap_or_else(|| panic!("no counter {name} in\n{metrics}"))
        };
        Reads {
            medium: proc::read_bytes(self.head.pid().unwrap()).unwrap(),
            ahead: counter("reveille_prefetched_bytes_total"),
            warm: counter("reveille_iscsi_reads_warm_total"),
            cold: counter("reveille_iscsi_reads_cold_total"),
        }
    }

    /// One boot until the node says that it is ready, and what the head read during it.
    fn boot(&self) -> Reads {
        let before = self.reads();
        let answer = self
            .head
            .ask(&["boot", "node1", "--wait", "--timeout", BOOT])
            .unwrap();
        let tail = self.node.console().tail(15);
        assert_eq!(answer.code, 0, "{}{}\n{tail}", answer.stdout, answer.stderr);
        let during = self.reads().since(before);
        println!("a boot: {during:?}");
        during
    }

    fn profile(&self, image: &str) -> Value {
        let said = self.head.run(&["image", "profile", image, "-o", "json"]);
        serde_json::from_str(&said.unwrap()).unwrap()
    }

    /// Waits until so many boots of the version are recorded.
    fn wait_recorded(&self, image: &str, boots: u64) -> Value {
        let mut seen = Value::Null;
        let recorded = proc::wait_until(SHELL, || {
            seen = self.profile(image);
            number(&seen, "boots") == boots
        });
        assert!(recorded.is_ok(), "not {boots} boots: {seen}");
        seen
    }

    /// Waits until all of the version's profile is in memory, before any node asks.
    fn wait_warm(&self, image: &str) -> u64 {
        let mut seen = Value::Null;
        let warm = proc::wait_until(SHELL, || {
            seen = self.profile(image);
            seen["chunks"].as_u64() > Some(0) && seen["warm"] == seen["chunks"]
        });
        assert!(warm.is_ok(), "not warm: {seen}");
        number(&seen, "chunks")
    }
}

fn number(from: &Value, key: &str) -> u64 {
    from[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {from}"))
}

/// Lets the kernel drop what it has of these files; says how many there are.
fn forget(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        // Pages that are not written back yet would stay.
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_boot_is_recorded_survives_a_restart_and_warms_the_next_boots_also_of_the_next_version() {
    let mut site = Site::new();
    site.start_cold();
    let none = site.profile("debian12");
    assert_eq!((number(&none, "boots"), number(&none, "chunks")), (0, 0));

    // Nothing is known, nothing is in memory: all of it comes from the medium while the node waits.
    let first = site.boot();
    assert_eq!(first.ahead, 0, "something was brought in: {first:?}");
    let own = site.wait_recorded("debian12", 1);
    let chunks = number(&own, "chunks");
    assert_eq!(own["inherited"], false, "{own}");
    assert!(
        first.medium >= chunks * CHUNK && chunks > 0,
        "the boot was not cold: {first:?}, {own}"
    );
    site.node.power_off().unwrap();

    // The profile is read back and all of it is in memory before the first node comes.
    site.start_cold();
    assert_eq!(site.wait_warm("debian12:1"), chunks);
    let ready = site.reads();
    assert!(ready.ahead >= chunks * CHUNK, "{ready:?}");
    assert!(
        ready.medium >= chunks * CHUNK,
        "it was in memory: {ready:?}"
    );
    assert_eq!((ready.warm, ready.cold), (0, 0), "a node was there");
    site.boot().was_warm_after(first);
    let own = site.wait_recorded("debian12:1", 2);

    // What the node changes becomes the next version, which knows what its boots will read.
    let mut console = site.node.wait_shell(SHELL).unwrap();
    let change = "echo version 2 > /root/version && sync";
    console.run(change, SHELL).unwrap();
    site.node.power_off().unwrap();
    let before = number(&own, "chunks");
    site.head
        .run(&["layer", "promote", "node1", "--name", "debian12", "--force"])
        .unwrap();
    let said = ["image", "diff", "debian12:1", "debian12:2", "--no-files"];
    let said = site
        .head
        .run(&[&said[..], &["-o", "json"]].concat())
        .unwrap();
    let differing = number(&serde_json::from_str(&said).unwrap(), "differing_chunks");
    let inherited = site.profile("debian12:2");
    let kept = number(&inherited, "chunks");
    assert_eq!(inherited["inherited"], true, "{inherited}");
    assert!(
        kept <= before && kept + differing >= before && kept * 2 > before,
        "{inherited}: {before} chunks before, of which at most {differing} differ"
    );
    println!("version 2 inherits {kept} of {before} chunks; {differing} of the disk differ");

    site.start_cold();
    assert_eq!(site.wait_warm("debian12:2"), kept);
    site.boot().was_warm_after(first);
    let shown = site.head.run(&["node", "show", "node1"]).unwrap();
    assert!(shown.contains("debian12:2"), "{shown}");
    let mut console = site.node.wait_shell(SHELL).unwrap();
    let there = (0..3).any(|_| {
        let said = console.run("cat /root/version", SHELL).unwrap();
        said.contains("version 2")
    });
    assert!(there, "version 2 lacks what was promoted");
    site.node.power_off().unwrap();
    site.head.stop().unwrap();
    site.lab.down().unwrap();
}
