use super::*;
use crate::head::test::{Bench, add_ask, byte, name, refused};
use crate::head::{BOOTS, LayerReset, NodeAdd, NodeChange};
use crate::units::ByteRange;

#[test]
fn an_ephemeral_node_begins_each_boot_from_its_image() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    assert_eq!(bench.boot("n1").label, "d:1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (9, 1));
    // A second login of the same boot sees the same disk.
    assert_eq!(byte(&bench.os("n1"), 0), 9);
    bench.boot("n1");
    assert!(disk.volume.read(ByteRange::new(0, 512).unwrap()).is_err());
    assert_eq!(byte(&bench.os("n1"), 0), 1);
    assert_eq!(byte(&bench.login("n2", true).unwrap(), 0), 1);
}

#[test]
fn preparing_a_boot_twice_changes_nothing() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let boot = bench.head().bus().begin_boot(&name("n1"), "test");
    let first = bench.head().prepare_boot(&name("n1"), boot).unwrap();
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    bench.import("d", 2);
    let again = bench.head().prepare_boot(&name("n1"), boot).unwrap();
    assert_eq!(first, again);
    assert_eq!(byte(&bench.os("n1"), 0), 9);
}

#[test]
fn a_boot_stays_on_its_version_and_the_next_one_moves_on() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    bench.import("d", 2);
    assert_eq!(bench.os("n1").binding.label, "d:1");
    assert_eq!(byte(&bench.os("n1"), 0), 1);
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!(byte(&bench.os("n1"), 0), 2);
}

#[test]
fn a_persistent_layer_is_kept_over_its_version() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    disk.volume.flush().unwrap();
    drop(disk);
    bench.import("d", 2);
    bench.restart_host();
    let bound = bench.boot("n1");
    assert_eq!(bound.label, "d:1");
    let disk = bench.os("n1");
    assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (9, 1));
    let layer = bench.head().layers(Some("n1")).unwrap().remove(0);
    assert_eq!(layer.image.as_deref(), Some("d:1"));
    assert_eq!(layer.wanted.as_deref(), Some("d:2"));
    assert_eq!(layer.held.data_bytes, 4096);
    let idle = |_: &NodeName| false;
    let removed = bench.remove_image("d:1", &idle);
    refused(removed, HeadErrorKind::Conflict, &["n1 keep layers"]);
}

#[test]
fn a_persistent_layer_without_data_moves_on() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1");
    bench.import("d", 2);
    assert_eq!(bench.boot("n1").label, "d:2");
}

#[test]
fn a_new_boot_ends_what_the_old_one_had_open_even_if_the_layer_is_kept() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let old = bench.os("n1");
    old.volume.write(0, &[9; 512]).unwrap();
    bench.boot("n1");
    assert!(old.volume.write(0, &[8; 512]).is_err());
    assert_eq!(byte(&bench.os("n1"), 0), 9);
}

#[test]
fn a_reset_by_hand_needs_a_new_boot() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    bench.import("d", 2);
    let ask = LayerReset {
        nodes: "n1".into(),
        ..LayerReset::default()
    };
    let busy = bench.head().layers_reset(&ask, &|_| true);
    refused(busy, HeadErrorKind::Conflict, &["n1", "force"]);
    bench.reset("n1");
    refused(
        bench.login("n1", false),
        HeadErrorKind::Gone,
        &["n1", "reset"],
    );
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!(byte(&bench.os("n1"), 0), 2);
}

#[test]
fn going_ephemeral_throws_the_kept_layer_away_and_says_so() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let ask: NodeChange = serde_json::from_str(r#"{"nodes":"n1","mode":"ephemeral"}"#).unwrap();
    let done = bench.head().nodes_set(&ask).unwrap();
    assert!(
        done.notices[0].contains("thrown away"),
        "{:?}",
        done.notices
    );
    assert_eq!(byte(&bench.os("n1"), 0), 9);
    bench.boot("n1");
    assert_eq!(byte(&bench.os("n1"), 0), 1);
}

#[test]
fn a_firmware_login_begins_a_boot_where_none_is_under_way() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let bus = bench.head().bus();
    let first = bench.login("n1", true).unwrap().binding.boot;
    assert_eq!(bus.current_boot(&name("n1")), Some(first));
    // Firmware that logs in again, and the system it loads, belong to the same boot.
    assert_eq!(bench.login("n1", true).unwrap().binding.boot, first);
    assert_eq!(bench.os("n1").binding.boot, first);
    assert_eq!(bench.os("n1").binding.boot, first);
    // After a system was there, firmware means that the node was restarted.
    let second = bench.login("n1", true).unwrap().binding.boot;
    assert!(second > first);
    // A boot that the boot services began is not begun again.
    let third = bench.boot("n1").boot;
    assert_eq!(bench.login("n1", true).unwrap().binding.boot, third);
}

#[test]
fn a_firmware_login_prepares_a_boot_that_only_began() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let boot = bench.head().bus().begin_boot(&name("n1"), "dhcp");
    let disk = bench.login("n1", true).unwrap();
    assert_eq!((disk.binding.boot, byte(&disk, 0)), (boot, 1));
}

#[test]
fn a_system_without_any_boot_gets_one() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let disk = bench.os("n1");
    assert_eq!(disk.binding.label, "d:1");
    assert!(disk.binding.boot > BootId(0));
}

#[test]
fn a_running_system_keeps_its_disk_over_a_restart_of_the_head() {
    let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
    let boot = bench.boot("n1").boot;
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    bench.reopen();
    let disk = bench.os("n1");
    assert_eq!((disk.binding.boot, byte(&disk, 0)), (boot, 9));
    let next = bench.boot("n1").boot;
    assert!(next > boot, "boot ids are never given twice");
}

#[test]
fn a_restart_of_the_host_ends_ephemeral_boots_with_a_reason() {
    let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    bench.restart_host();
    let words = ["n1", "restart of the head's machine", "boot the node anew"];
    refused(bench.login("n1", false), HeadErrorKind::Gone, &words);
    bench.reopen();
    refused(bench.login("n1", false), HeadErrorKind::Gone, &words);
    bench.boot("n1");
    assert_eq!(byte(&bench.os("n1"), 0), 1);
    bench.reopen();
    assert_eq!(byte(&bench.os("n1"), 0), 1);
}

#[test]
fn a_crash_of_the_host_ends_persistent_boots_and_keeps_their_layers() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    disk.volume.flush().unwrap();
    drop(disk);
    bench.restart_host();
    let words = ["n1", "not flushed", "boot the node anew"];
    refused(bench.login("n1", false), HeadErrorKind::Gone, &words);
    bench.boot("n1");
    assert_eq!(byte(&bench.os("n1"), 0), 9);
}

#[test]
fn a_host_that_goes_down_in_order_ends_no_persistent_boot() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    drop(disk);
    bench.head().close();
    bench.restart_host();
    assert_eq!(byte(&bench.os("n1"), 0), 9);
}

#[test]
fn a_node_that_cannot_boot_says_why() {
    let bench = Bench::new();
    bench.import("d", 1);
    let ask = NodeAdd {
        image: None,
        ..add_ask("n1")
    };
    assert!(bench.head().nodes_add(&ask).unwrap().notices[0].contains("no image"));
    let words = ["n1", "reveille node set n1 --image"];
    refused(bench.login("n1", true), HeadErrorKind::Invalid, &words);
    refused(bench.login("x", true), HeadErrorKind::NotFound, &["`x`"]);
}

#[test]
fn a_reset_layer_is_told_on_the_bus() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let (kept, _) = bench.head().bus().replay_and_subscribe(0);
    let reset =
        |kind: &EventKind| matches!(kind, EventKind::LayerReset { image } if image == "d:1");
    assert!(
        kept.iter()
            .any(|event| reset(&event.kind) && event.boot.is_some())
    );
}

#[test]
fn boot_ids_are_reserved_ahead() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let reserved = || bench.head().snapshot().counter(BOOTS);
    let before = reserved();
    bench.boot("n1");
    assert_eq!(reserved(), before);
    let far = BootId(before - 10);
    bench.head().prepare_boot(&name("n1"), far).unwrap();
    assert_eq!(reserved(), far.0 + limits::BOOT_ID_BLOCK);
}

#[test]
fn one_slow_node_does_not_hold_up_another() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let run = bench.head().runs.of(&name("n1"));
    let held = lock(&run);
    // Would hang if it needed what n1's operation holds.
    assert_eq!(bench.boot("n2").label, "d:1");
    bench.os("n2");
    drop(held);
    bench.os("n1");
}

#[test]
fn nodes_boot_side_by_side() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    std::thread::scope(|scope| {
        for node in ["n1", "n2", "n3"] {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..5 {
                    let boot = bench.boot(node).boot;
                    let disk = bench.os(node);
                    assert_eq!(disk.binding.boot, boot, "{node} round {round}");
                    disk.volume.write(0, &[9; 512]).unwrap();
                    assert_eq!(byte(&disk, 0), 9);
                }
            });
        }
    });
}

#[test]
fn a_damaged_persistent_layer_is_not_thrown_away_by_a_boot() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    disk.volume.flush().unwrap();
    drop(disk);
    bench.head().close();
    bench.lose("store/layers/data");
    assert_eq!(bench.boot("n1").label, "d:1");
    let trouble = || bench.head().layers(Some("n1")).unwrap().remove(0).trouble;
    refused(bench.login("n1", false), HeadErrorKind::Internal, &["n1"]);
    assert!(trouble().is_some());
    bench.reset("n1");
    assert_eq!(bench.boot("n1").label, "d:1");
    assert_eq!(byte(&bench.os("n1"), 0), 1);
    assert_eq!(trouble(), None);
}

#[test]
fn a_login_that_needs_nothing_new_is_done_at_once() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let at_once = |firmware| bench.head().attach_at_once(&name("n1"), firmware);
    assert!(at_once(false).is_none(), "its binding is not written yet");
    bench.boot("n1");
    let disk = bench.head().attach(&name("n1"), false).unwrap();
    disk.volume.write(0, &[9; 512]).unwrap();
    let again = at_once(false).unwrap().unwrap();
    assert!(Arc::ptr_eq(&disk.volume, &again.volume));
    assert_eq!(byte(&again, 0), 9);
    assert!(bench.head().attach_at_once(&name("n9"), false).is_none());
}

#[test]
fn a_login_that_begins_a_boot_is_not_done_at_once_and_nothing_of_it() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1");
    let boot = bench.head().bus().current_boot(&name("n1"));
    assert!(bench.head().attach_at_once(&name("n1"), true).is_none());
    assert_eq!(bench.head().bus().current_boot(&name("n1")), boot);
    assert_eq!(byte(&disk, 0), 1);
    bench.login("n1", true).unwrap();
    assert_ne!(bench.head().bus().current_boot(&name("n1")), boot);
    assert!(disk.volume.read(ByteRange::new(0, 512).unwrap()).is_err());
}

#[test]
fn a_login_at_once_learns_that_its_disk_is_gone() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1");
    bench.reset("n1");
    let told = bench.head().attach_at_once(&name("n1"), false).unwrap();
    refused(told, HeadErrorKind::Gone, &["n1", "reset"]);
}

#[test]
fn a_login_at_once_waits_for_nobody() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let _disk = bench.os("n1");
    let run = bench.head().runs.of(&name("n1"));
    let busy = lock(&run);
    assert!(bench.head().attach_at_once(&name("n1"), false).is_none());
    drop(busy);
    assert!(bench.head().attach_at_once(&name("n1"), false).is_some());
}
