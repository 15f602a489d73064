//! What attacks from the network do to a well-behaved node: `cargo bench --bench attack [NAME...]`.
//!
//! A release head on loopback with CHAP; a node that reads 4 KiB at random at depth 4, writes and flushes, at a
//! fixed pace, alone and then next to each attack; and a second initiator of that node that logs in afresh twice a
//! second. With two cores or more the head is pinned to core 1; the node and the attacker share core 0, the
//! attacker as its own process with nice 19. `spin` is no attack but an idle loop in the attacker's place: what
//! it does to the figures is the client side's own doing.
//!
//! `REVEILLE_ATTACK_SECONDS` is the time of each attack (default 6).
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a bench")]

#[path = "attack/attacks.rs"]
mod attacks;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "attack/node.rs"]
mod node;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{TestHead, raw_disk};
use node::{Figures, Secrets};

/// Nodes beside the well-behaved one, whose secrets the attacker has.
pub const ACCOMPLICES: usize = 8;

fn main() {
    if let Ok(name) = std::env::var("REVEILLE_ATTACK") {
        attacks::run(&name);
        return;
    }
    allow_open_files();
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let pinned = std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2) && pin(1);
    let mut head = start_head();
    let affinity = if pinned && pin(0) {
        "head on core 1, node and attacker on core 0"
    } else {
        "nothing is pinned"
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{affinity}; load before: {}", load.trim());
    let secrets = secrets(&head);
    let seconds = std::env::var("REVEILLE_ATTACK_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(6));
    let _ = node::measure(&head, &secrets, Duration::from_secs(1));
    let base = node::measure(&head, &secrets, time);
    print_head();
    print_row("none", &base, &base, "");
    let mut spin = base.clone();
    for name in attacks::NAMES {
        if !(wanted.is_empty() || *name == "spin" || wanted.iter().any(|w| w == name)) {
            continue;
        }
        let child = attack(name, &head, time);
        let found = node::measure(&head, &secrets, time);
        let said = finish(child);
        print_row(name, &found, &base, &said);
        if *name == "spin" {
            spin = found;
        }
        // Let it come to rest: what an attack leaves behind must not be counted against the next one.
        let _ = node::measure(&head, &secrets, Duration::from_secs(1));
    }
    let after = node::measure(&head, &secrets, time);
    print_row("none, after all", &after, &base, "");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "load after: {}; against `spin` the base p99 is {} us",
        load.trim(),
        spin.p99_us
    );
    let told = head.log().matches("login refused").count();
    println!("refusals told in the log: {told}");
    head.stop();
}

fn print_head() {
    println!(
        "| attack | connections | attempts/s | refused | node p50 us | node p99 us | max ms | p99 ratio | \
         login max ms | head RSS MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
}

fn print_row(name: &str, found: &Figures, base: &Figures, said: &str) {
    let words: Vec<&str> = said.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().unwrap_or("-");
    let tenths = |n: u64, by: u64| (n * 10).checked_div(by).unwrap_or(0);
    let ratio = tenths(found.p99_us, base.p99_us);
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {}.{} | {} ({} of {}) | {} |",
        word(0),
        word(1),
        word(2),
        found.p50_us,
        found.p99_us,
        found.max_us / 1000,
        ratio / 10,
        ratio % 10,
        found.login_max_us / 1000,
        found.logins,
        found.logins_tried,
        found.rss_max >> 20,
    );
}

fn start_head() -> TestHead {
    let mut head = TestHead::with_config("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"chap\"\n");
    raw_disk(&head.path("golden.raw"), 64);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    for n in 0..=ACCOMPLICES {
        let mac = format!("52:54:00:00:01:{n:02x}");
        let name = format!("n{n}");
        head.good(&["node", "add", &name, "--image", "golden", "--mac", &mac]);
    }
    head.serve();
    head
}

/// The secrets of all nodes, n0 first; also in a file for the attacker.
fn secrets(head: &TestHead) -> Secrets {
    let all: Secrets = (0..=ACCOMPLICES)
        .map(|n| {
            let shown = head.good(&["node", "secret", &format!("n{n}"), "-o", "json"]);
            let mut shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            if shown.is_array() {
                shown = shown[0].take();
            }
            shown["secret"].as_str().unwrap().to_owned()
        })
        .collect();
    std::fs::write(head.path("secrets"), all.join("\n")).unwrap();
    all
}

fn attack(name: &str, head: &TestHead, time: Duration) -> Child {
    let me = std::env::current_exe().unwrap();
    Command::new("nice")
        .args(["-n", "19"])
        .arg(me)
        .env("REVEILLE_ATTACK", name)
        .env("REVEILLE_ATTACK_PORTAL", head.portal.unwrap().to_string())
        .env("REVEILLE_ATTACK_SECRETS", head.path("secrets"))
        .env("REVEILLE_ATTACK_SECONDS", (time.as_secs() + 1).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut child: Child) -> String {
    let mut said = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    let _ = child.wait();
    said
}

/// Pins this process, and what it starts from now on.
fn pin(core: u32) -> bool {
    if !Path::new("/usr/bin/taskset").exists() {
        return false;
    }
    let pid = std::process::id().to_string();
    let done = Command::new("taskset")
        .args(["-cp", &core.to_string(), &pid])
        .stdout(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

fn allow_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
