//! The checks, in the order in which they run.

use anyhow::{Result, ensure};
use lab::guest::TAPS;
use lab::net::{HEAD_ADDRESS, SECOND_ADDRESS};
use lab::proc;
use rustix::process::Signal;

use crate::Check;
use crate::bench::{Bench, DISK_BYTES};

const LOGINS: &str = include_str!("logins.sh");
const DIGESTS: &str = include_str!("digests.sh");
const TOOLS: &str = include_str!("tools.sh");
const RESERVE: &str = include_str!("reserve.sh");
const APTPL: &str = include_str!("aptpl.sh");
const FILESYSTEMS: &str = include_str!("filesystems.sh");
const LOOPS: &str = include_str!("loops.sh");
const PATHS: &str = include_str!("paths.sh");
const RESTARTS: &str = include_str!("restarts.sh");
const PINGS: &str = include_str!("pings.sh");

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Every check with its name.
        pub(crate) const ALL: &[Check] = &[$((stringify!($name), $name)),+];
    };
}

checks![
    linux_discovers_and_logs_in_with_its_own_secret_only,
    linux_writes_and_verifies_over_digests,
    sg3_utils_find_a_disk_that_keeps_the_standards,
    sg_persist_reserves_between_two_nexuses,
    a_reservation_with_aptpl_survives_kill_9_or_is_refused,
    ext4_lives_on_the_disk_and_gives_space_back,
    xfs_lives_on_the_disk_and_gives_space_back,
    fifty_logins_and_a_killed_iscsid_leave_nothing_behind,
    multipath_carries_on_when_a_path_is_cut,
    linux_waits_through_kill_9_and_restart_of_the_head,
    pings_tell_a_stopped_head_and_a_taken_disk_is_an_error,
];

fn linux_discovers_and_logs_in_with_its_own_secret_only(bench: &mut Bench) -> Result<()> {
    let node = bench.node("login", 1)?;
    bench.node("neighbour", 2)?;
    bench.sh(&node, LOGINS, &[]).map(drop)
}

fn linux_writes_and_verifies_over_digests(bench: &mut Bench) -> Result<()> {
    let node = bench.node("digests", 3)?;
    bench.sh(&node, DIGESTS, &[]).map(drop)
}

fn sg3_utils_find_a_disk_that_keeps_the_standards(bench: &mut Bench) -> Result<()> {
    let node = bench.node("tools", 4)?;
    let size = DISK_BYTES.to_string();
    bench.sh(&node, TOOLS, &[("SIZE", &size)]).map(drop)
}

fn sg_persist_reserves_between_two_nexuses(bench: &mut Bench) -> Result<()> {
    let node = bench.node("reserve", 5)?;
    bench.sh(&node, RESERVE, &[]).map(drop)
}

fn a_reservation_with_aptpl_survives_kill_9_or_is_refused(bench: &mut Bench) -> Result<()> {
    let node = bench.node("aptpl", 12)?;
    let answer = bench.step(&node, APTPL, "ask")?;
    if answer.contains("APTPL refused") {
        return Ok(());
    }
    ensure!(answer.contains("APTPL kept"), "{answer}");
    bench.head.crash_and_restart()?;
    bench.step(&node, APTPL, "kept").map(drop)
}

fn ext4_lives_on_the_disk_and_gives_space_back(bench: &mut Bench) -> Result<()> {
    filesystem(bench, "ext4", 6)
}

fn xfs_lives_on_the_disk_and_gives_space_back(bench: &mut Bench) -> Result<()> {
    filesystem(bench, "xfs", 7)
}

fn filesystem(bench: &mut Bench, kind: &str, number: u8) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let node = bench.node(kind, number)?;
    let step = |bench: &mut Bench, step: &str| {
        bench.sh(&node, FILESYSTEMS, &[("KIND", kind), ("STEP", step)])
    };
    step(bench, "make")?;
    let full = bench.layer_bytes(&node)?;
    ensure!(
        full >= 100 * MIB,
        "105 MiB were written, the layer holds {full} bytes"
    );
    step(bench, "give-back")?;
    let trimmed = bench.layer_bytes(&node)?;
    // A file of 96 MiB went; a little metadata came.
    ensure!(
        trimmed + 90 * MIB <= full,
        "fstrim gave nothing back: {full} bytes before, {trimmed} after"
    );
    ensure!(
        trimmed >= 9 * MIB,
        "more was given back than was free: {trimmed} bytes are left"
    );
    Ok(())
}

fn fifty_logins_and_a_killed_iscsid_leave_nothing_behind(bench: &mut Bench) -> Result<()> {
    let node = bench.node("loops", 8)?;
    bench.sh(&node, LOOPS, &[("ROUNDS", "50")]).map(drop)
}

fn multipath_carries_on_when_a_path_is_cut(bench: &mut Bench) -> Result<()> {
    let node = bench.node("paths", 9)?;
    bench.step(&node, PATHS, "begin")?;
    let portals = [HEAD_ADDRESS, SECOND_ADDRESS].map(|address| format!("{address}:3260"));
    for (cut, tap) in TAPS.into_iter().enumerate() {
        let names = [
            ("PATH_DOWN", &*portals[cut]),
            ("PATH_UP", &*portals[1 - cut]),
        ];
        let with = |step| [&[("STEP", step)], &names[..]].concat();
        bench.lab.net().set_link(tap, false)?;
        bench.sh(&node, PATHS, &with("cut"))?;
        bench.lab.net().set_link(tap, true)?;
        bench.sh(&node, PATHS, &with("plugged"))?;
    }
    bench.step(&node, PATHS, "end")?;
    let log = std::fs::read_to_string(bench.head.log())?;
    ensure!(
        !log.contains("push each other out"),
        "two paths of one machine were taken for two machines"
    );
    Ok(())
}

fn linux_waits_through_kill_9_and_restart_of_the_head(bench: &mut Bench) -> Result<()> {
    let node = bench.node("restarts", 10)?;
    bench.step(&node, RESTARTS, "begin")?;
    for end in ["kill", "kill", "stop"] {
        if end == "kill" {
            bench.head.kill()?;
        } else {
            bench.head.stop()?;
        }
        bench.step(&node, RESTARTS, "gone")?;
        bench.head.start()?;
        bench.step(&node, RESTARTS, "back")?;
    }
    bench.step(&node, RESTARTS, "end").map(drop)
}

fn pings_tell_a_stopped_head_and_a_taken_disk_is_an_error(bench: &mut Bench) -> Result<()> {
    let node = bench.node("pings", 11)?;
    bench.step(&node, PINGS, "busy")?;
    let pid = bench.head.pid();
    let pid = pid.ok_or_else(|| anyhow::anyhow!("the head does not run"))?;
    proc::signal(pid, Signal::STOP);
    let told = bench.step(&node, PINGS, "stopped");
    proc::signal(pid, Signal::CONT);
    told?;
    bench.step(&node, PINGS, "again")?;
    bench.head.run(&["node", "rm", &node.name, "--force"])?;
    let told = bench.step(&node, PINGS, "taken")?;
    println!("  {}", told.lines().last().unwrap_or_default());
    Ok(())
}
