//! Starting, killing and asking a head, with a shell script in its place. Needs root:
//! `tools/test` runs it with all that it needs.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lab::{Head, HeadSpec, Lab};

/// Behaves like a head at its doors: `serve` says ready, anything else shows its arguments.
const STAND_IN: &str = r#"#!/bin/bash
[ "$1" = --config ] && config=$2 && shift 2
grep -q 'interfaces = \["br0"\]' "$config" || exit 9
case $1 in
    serve)
        ip -4 addr show br0 | grep -q 10.77.0.1 || exit 8
        [ -d "$REVEILLE_LAB/nodes" ] || exit 7
        if [ -e "$REVEILLE_LAB/broken" ]; then echo "no such disk" >&2; exit 1; fi
        echo "opening the store"
        echo "ready iscsi 10.77.0.1:3260"
        trap 'exit 0' TERM
        while :; do sleep 0.05; done ;;
    fail) echo "why it failed" >&2; exit 3 ;;
    *) echo "asked: $*" ;;
esac
"#;

fn stand_in(lab: &Lab) -> HeadSpec {
    let path = lab.dir().join("stand-in");
    fs::write(&path, STAND_IN).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    HeadSpec::standard(lab, &path)
}

#[test]
fn a_head_starts_crashes_restarts_and_stops() {
    let lab = Lab::new("head").unwrap();
    let mut head = Head::prepare(&lab, stand_in(&lab)).unwrap();
    assert_eq!(head.pid(), None);
    let (ready, _) = head.start().unwrap();
    assert_eq!(ready, "ready iscsi 10.77.0.1:3260");
    let first = head.pid().expect("runs");
    assert!(
        lab.net().pids().unwrap().contains(&first),
        "the head lives in the lab's network"
    );
    head.crash_and_restart().unwrap();
    let second = head.pid().expect("runs again");
    assert_ne!(first, second);
    assert!(!lab::proc::alive(first));
    head.stop().unwrap();
    assert!(!lab::proc::alive(second));
}

#[test]
fn a_head_that_cannot_start_shows_its_log() {
    let lab = Lab::new("broken").unwrap();
    fs::write(lab.dir().join("broken"), "").unwrap();
    let error = Head::launch(&lab, stand_in(&lab)).unwrap_err().to_string();
    assert!(error.contains("no such disk"), "{error}");
}

#[test]
fn commands_return_output_and_exit_code() {
    let lab = Lab::new("ask").unwrap();
    let head = Head::prepare(&lab, stand_in(&lab)).unwrap();
    assert_eq!(head.run(&["node", "ls"]).unwrap(), "asked: node ls\n");
    let answer = head.ask(&["fail"]).unwrap();
    assert_eq!(
        (answer.code, answer.stderr.as_str()),
        (3, "why it failed\n")
    );
    let error = head.run(&["fail"]).unwrap_err().to_string();
    assert!(error.contains("why it failed"), "{error}");
}
