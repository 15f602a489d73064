//! Tests of the campaign machine: scripted boots, and whole campaigns with faults from a seed.

use proptest::prelude::*;

use super::super::spec::{SpecNode, Until};
use super::*;
use crate::events::ReadyBy;

fn name(i: usize) -> NodeName {
    NodeName::parse(&format!("n{i}")).unwrap()
}

fn spec(nodes: usize, wave: WaveSize, power: bool) -> Spec {
    let node = |i| SpecNode {
        name: name(i),
        power,
        up: false,
    };
    Spec {
        nodes: (0..nodes).map(node).collect(),
        wave,
        until: Until::Ready,
        restart: false,
        timeout_ms: 60_000,
        retries: 1,
    }
}

fn event(i: usize, boot: u64, kind: EventKind) -> Event {
    Event {
        seq: 0,
        at: UnixMillis(0),
        node: Some(name(i)),
        boot: Some(BootId(boot)),
        kind,
    }
}

fn hold(i: usize, queued: bool) -> Effect {
    Effect::Hold {
        node: name(i),
        queued,
    }
}

fn started() -> EventKind {
    EventKind::BootStarted { cause: "t".into() }
}

fn ready() -> EventKind {
    EventKind::Ready { by: ReadyBy::Call }
}

fn script() -> EventKind {
    EventKind::Script {
        decision: "wait".into(),
        image: None,
    }
}

fn drain(machine: &mut Machine) -> Vec<Effect> {
    std::iter::from_fn(|| machine.poll()).collect()
}

fn powered(effects: &[Effect]) -> Vec<(NodeName, Action)> {
    let power = |e: &Effect| match e {
        Effect::Power(node, action) => Some((node.clone(), *action)),
        _ => None,
    };
    effects.iter().filter_map(power).collect()
}

#[test]
fn a_wave_is_never_larger_than_asked() {
    let mut machine = Machine::new(spec(5, WaveSize::Fixed(2), true), UnixMillis(0));
    let first = drain(&mut machine);
    assert_eq!(
        powered(&first),
        [(name(0), Action::On), (name(1), Action::On)]
    );
    assert!(first.contains(&hold(2, true)));
    assert!(first.contains(&hold(4, true)));
    machine.apply(&event(1, 7, started()), UnixMillis(10));
    machine.apply(&event(1, 7, ready()), UnixMillis(20));
    let next = drain(&mut machine);
    assert_eq!(powered(&next), [(name(2), Action::On)]);
    assert_eq!(machine.summary().booting, 2);
}

#[test]
fn what_an_earlier_boot_does_does_not_count() {
    let mut machine = Machine::new(spec(1, WaveSize::Fixed(1), true), UnixMillis(0));
    machine.apply(&event(0, 3, ready()), UnixMillis(1));
    assert_eq!(machine.summary().up, 0);
    machine.apply(&event(0, 4, started()), UnixMillis(2));
    machine.apply(&event(0, 3, ready()), UnixMillis(3));
    assert_eq!(machine.summary().up, 0);
    machine.apply(&event(0, 4, ready()), UnixMillis(4));
    assert_eq!(machine.summary().up, 1);
}

#[test]
fn a_failed_attempt_is_repeated_with_a_power_cycle_and_then_given_up_with_a_reason() {
    let mut machine = Machine::new(spec(1, WaveSize::Fixed(1), true), UnixMillis(0));
    drain(&mut machine);
    machine.tick(UnixMillis(59_999));
    assert!(drain(&mut machine).is_empty());
    machine.tick(UnixMillis(60_000));
    assert_eq!(powered(&drain(&mut machine)), [(name(0), Action::Cycle)]);
    machine.apply(&event(0, 5, started()), UnixMillis(61_000));
    machine.apply(&event(0, 5, script()), UnixMillis(62_000));
    machine.tick(UnixMillis(120_000));
    let end = drain(&mut machine);
    let failed = end.iter().find_map(|e| match e {
        Effect::Fail { stage, reason, .. } => Some((*stage, reason.clone())),
        _ => None,
    });
    let (stage, reason) = failed.expect("the node failed");
    assert_eq!(stage, Stage::Script);
    assert!(reason.contains("did not log in"), "{reason}");
    assert!(matches!(end.last(), Some(Effect::Finished(s)) if s.failed == 1));
}

#[test]
fn nodes_without_power_take_a_place_only_when_they_come() {
    let mut machine = Machine::new(spec(3, WaveSize::Fixed(1), false), UnixMillis(0));
    let first = drain(&mut machine);
    assert!(first.contains(&hold(0, false)));
    assert!(!first.contains(&Effect::Admit(name(0))));
    machine.apply(&event(2, 9, started()), UnixMillis(1));
    machine.apply(&event(2, 9, script()), UnixMillis(1));
    assert!(drain(&mut machine).contains(&Effect::Admit(name(2))));
    machine.apply(&event(2, 9, ready()), UnixMillis(2));
    machine.tick(UnixMillis(60_000));
    let summary = machine.summary();
    assert_eq!((summary.up, summary.failed), (1, 2));
}

#[test]
fn a_refused_login_is_part_of_the_reason() {
    let mut machine = Machine::new(spec(1, WaveSize::Fixed(1), false), UnixMillis(0));
    machine.apply(&event(0, 1, script()), UnixMillis(1));
    let refused = EventKind::LoginRefused {
        peer: "127.0.0.1:1".parse().unwrap(),
        status: 0x0201,
        why: "wrong secret".into(),
    };
    machine.apply(&event(0, 1, refused), UnixMillis(2));
    machine.tick(UnixMillis(70_000));
    assert!(matches!(
        &machine.entries()[0].state,
        NodeState::Failed { reason, .. } if reason.contains("wrong secret")
    ));
}

#[test]
fn nodes_that_are_up_are_left_alone_unless_restarted() {
    let mut asked = spec(2, WaveSize::Fixed(2), true);
    asked.nodes[0].up = true;
    let mut machine = Machine::new(asked.clone(), UnixMillis(0));
    assert_eq!(powered(&drain(&mut machine)), [(name(1), Action::On)]);
    asked.restart = true;
    let mut machine = Machine::new(asked, UnixMillis(0));
    let all = powered(&drain(&mut machine));
    assert_eq!(all, [(name(0), Action::Cycle), (name(1), Action::Cycle)]);
}

#[test]
fn auto_grows_with_success_and_halves_with_failure() {
    let mut machine = Machine::new(spec(100, WaveSize::Auto, true), UnixMillis(0));
    let start = machine.summary().wave;
    for i in 0..4 {
        machine.apply(&event(i, 50, started()), UnixMillis(1));
        machine.apply(&event(i, 50, ready()), UnixMillis(2));
    }
    assert_eq!(machine.summary().wave, start + 4);
    machine.power_failed(&name(5), "bmc is silent", UnixMillis(3));
    assert_eq!(machine.summary().wave, (start + 4) / 2);
}

#[test]
fn a_campaign_read_back_goes_on() {
    let mut machine = Machine::new(spec(3, WaveSize::Fixed(1), true), UnixMillis(0));
    drain(&mut machine);
    let text = serde_json::to_string(&machine).unwrap();
    let mut again: Machine = serde_json::from_str(&text).unwrap();
    again.resume(UnixMillis(5));
    let effects = drain(&mut again);
    assert!(effects.contains(&hold(1, true)));
    again.apply(&event(0, 2, started()), UnixMillis(6));
    again.apply(&event(0, 2, ready()), UnixMillis(7));
    assert_eq!(powered(&drain(&mut again)), [(name(1), Action::On)]);
}

#[test]
fn a_campaign_with_a_failed_node_reads_back_whole() {
    let mut machine = Machine::new(spec(2, WaveSize::Fixed(2), false), UnixMillis(0));
    machine.apply(&event(0, 1, script()), UnixMillis(1));
    machine.tick(UnixMillis(70_000));
    let text = serde_json::to_string(&machine).unwrap();
    let again: Machine = serde_json::from_str(&text).unwrap();
    assert_eq!(again.entries(), machine.entries());
    assert!(matches!(
        &again.entries()[0].state,
        NodeState::Failed {
            failed_at: Stage::Script,
            timed_out: true,
            ..
        }
    ));
}

#[test]
fn an_aborted_campaign_locks_nobody_out() {
    let mut machine = Machine::new(spec(3, WaveSize::Fixed(1), true), UnixMillis(0));
    drain(&mut machine);
    machine.abort(UnixMillis(1));
    let effects = drain(&mut machine);
    for i in 0..3 {
        assert!(effects.contains(&Effect::Admit(name(i))));
    }
    assert!(matches!(effects.last(), Some(Effect::Finished(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any campaign ends, whatever its nodes do; places are never exceeded; every node ends up or failed
    /// with a reason; and everyone held was let through in the end.
    #[test]
    fn every_campaign_ends(nodes in 1_usize..60, wave in 1_u32..20, auto: bool, power: bool, seed: u64) {
        let size = if auto { WaveSize::Auto } else { WaveSize::Fixed(wave) };
        let mut machine = Machine::new(spec(nodes, size, power), UnixMillis(0));
        let mut held = std::collections::HashSet::new();
        let mut state = seed | 1;
        let mut chance = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut now = 0;
        let mut boot = 0;
        while machine.finished().is_none() {
            now += 500;
            prop_assert!(now < 100_000_000, "the campaign does not end");
            let i = usize::try_from(chance() % nodes as u64).unwrap();
            let kind = match chance() % 6 {
                0 => { boot += 1; started() }
                1 => script(),
                2 => ready(),
                _ => { machine.tick(UnixMillis(now)); continue }
            };
            machine.apply(&event(i, boot, kind), UnixMillis(now));
            for effect in drain(&mut machine) {
                match effect {
                    Effect::Hold { node, .. } => { held.insert(node); }
                    Effect::Admit(node) => { held.remove(&node); }
                    _ => {}
                }
            }
            let summary = machine.summary();
            if !auto {
                prop_assert!(summary.booting <= summary.wave);
            }
        }
        for effect in drain(&mut machine) {
            if let Effect::Admit(node) = effect { held.remove(&node); }
        }
        prop_assert!(held.is_empty(), "left outside: {held:?}");
        let summary = machine.summary();
        prop_assert_eq!(summary.up + summary.failed, summary.nodes);
    }
}
