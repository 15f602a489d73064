use super::*;
use crate::catalog::{Held, HeldType, LayerMode, ReservationKey};
use crate::head::test::{Bench, name};

fn held(key: u64) -> DiskReservations {
    let port = "iqn.2026-11.t:n1.initiator,i,0x00023d000001";
    DiskReservations {
        registrants: vec![ReservationKey {
            port: port.into(),
            key,
            all_ports: false,
        }],
        held: Some(Held {
            by: port.into(),
            kind: HeldType::ExclusiveAccess,
        }),
    }
}

fn keep(bench: &Bench, disk: &DiskIdentity, what: Option<&DiskReservations>) -> Result<()> {
    bench.head().keep_reservations(&name("n1"), disk, what)
}

fn found(bench: &Bench) -> Option<DiskReservations> {
    bench.os("n1").reservations().cloned()
}

#[test]
fn reservations_survive_a_restart_of_the_head_and_go_when_they_are_taken_back() {
    for mode in [LayerMode::Ephemeral, LayerMode::Persistent] {
        let mut bench = Bench::with_nodes(mode);
        bench.boot("n1");
        let disk = bench.os("n1").disk();
        keep(&bench, &disk, Some(&held(7))).unwrap();
        bench.reopen();
        assert_eq!(found(&bench), Some(held(7)));
        assert_eq!(bench.os("n1").disk(), disk);
        keep(&bench, &disk, None).unwrap();
        bench.reopen();
        assert_eq!(found(&bench), None);
    }
}

#[test]
fn what_is_written_already_is_not_written_again() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1").disk();
    keep(&bench, &disk, Some(&held(7))).unwrap();
    let before = bench.head().catalog.rows_written();
    keep(&bench, &disk, Some(&held(7))).unwrap();
    assert_eq!(bench.head().catalog.rows_written(), before);
}

#[test]
fn a_boot_of_an_ephemeral_node_has_another_disk_without_them() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1").disk();
    keep(&bench, &disk, Some(&held(7))).unwrap();
    bench.boot("n1");
    assert_eq!(found(&bench), None);
    assert_ne!(bench.os("n1").disk(), disk);
    let late = keep(&bench, &disk, Some(&held(8))).unwrap_err();
    assert_eq!(late.kind, HeadErrorKind::Gone);
    assert_eq!(found(&bench), None);
}

#[test]
fn a_boot_of_a_persistent_node_keeps_disk_and_reservations() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let attached = bench.os("n1");
    let disk = attached.disk();
    attached.volume.write(0, &[9; 512]).unwrap();
    keep(&bench, &disk, Some(&held(7))).unwrap();
    bench.boot("n1");
    assert_eq!(found(&bench), Some(held(7)));
    // Power comes back, and the node boots from the disk it had.
    bench.restart_host();
    bench.boot("n1");
    assert_eq!(found(&bench), Some(held(7)));
    assert_eq!(bench.os("n1").disk(), disk);
}

#[test]
fn a_reset_by_hand_drops_them() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let attached = bench.os("n1");
    let disk = attached.disk();
    attached.volume.write(0, &[9; 512]).unwrap();
    keep(&bench, &disk, Some(&held(7))).unwrap();
    bench.reset("n1");
    let late = keep(&bench, &disk, Some(&held(8))).unwrap_err();
    assert_eq!(late.kind, HeadErrorKind::Gone);
    bench.boot("n1");
    assert_eq!(found(&bench), None);
    let again = bench.os("n1").disk();
    assert_eq!(again.uuid, disk.uuid, "initiators know it by its old name");
    assert_ne!(again, disk);
}

#[test]
fn a_node_of_the_same_name_is_not_the_same_disk() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1").disk();
    let stranger = DiskIdentity {
        uuid: "another".into(),
        ..disk
    };
    let refused = keep(&bench, &stranger, Some(&held(7))).unwrap_err();
    assert_eq!(refused.kind, HeadErrorKind::Gone);
}
