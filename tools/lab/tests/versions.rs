//! Point versions: steps that leave nothing behind, and a disk that is mounted over iSCSI and promoted.
//! Needs root, QEMU's initiator and the golden image; no Debian mirror.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::fs;
use std::path::{Path, PathBuf};

use lab::loopback::Loopback;
use lab::{golden, point, proc};

/// A directory with a copy of the golden image; it goes with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("reveille-versions-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let place = Self(dir);
        let golden = golden::debian12().unwrap();
        let args = [&golden.to_string_lossy(), &*place.path("disk.raw")];
        proc::run("cp", &["--sparse=always", args[0], args[1]]).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// One shell command inside the disk.
    fn does(&self, disk: &str, command: &str) -> anyhow::Result<point::Step> {
        point::step(disk, &self.0.join("keep"), &["run", command])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Loop devices over the file, and what is mounted from it or for it.
fn left_behind(disk: &str) -> String {
    let loops = proc::run("losetup", &["--associated", disk]).unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounts: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains("reveille-point"))
        .collect();
    loops + &mounts.join("\n")
}

#[test]
fn a_step_that_fails_leaves_no_mount_no_loop_device_and_a_clean_disk() {
    let place = Place::new("fails");
    let disk = place.path("disk.raw");
    let first = place.does(&disk, "echo before > /root/mark").unwrap();
    assert_eq!((first.kind.as_str(), first.packages), ("run", 0));
    let error = place
        .does(&disk, "echo after > /root/mark; exit 7")
        .unwrap_err();
    assert!(error.to_string().contains("point-version"), "{error}");
    let error = point::step(&disk, &place.0.join("keep"), &["no-such-step"]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no step `no-such-step`"),
        "{error}"
    );
    assert_eq!(left_behind(&disk), "");
    // Unmounted cleanly: what the failing step wrote is there, and the file system wants no repair.
    place.does(&disk, "grep -qx after /root/mark").unwrap();
    assert!(place.does(&disk, "grep -qx before /root/mark").is_err());
    let check = "dumpe2fs -h $(findmnt -no SOURCE /) 2>/dev/null | grep -q 'state:.*clean'";
    place.does(&disk, check).unwrap();
}

#[test]
fn a_node_mounted_over_iscsi_and_promoted_is_the_version_that_an_import_of_its_disk_is() {
    let place = Place::new("promotes");
    let head = Loopback::start(Path::new(&place.path("head"))).unwrap();
    let disk = place.path("disk.raw");
    head.run(&["image", "import", &disk, "--name", "debian12"])
        .unwrap();
    let add = ["node", "add", "n1", "--image", "debian12"];
    head.run(&[&add[..], &["--mode", "persistent"]].concat())
        .unwrap();
    let work = "head -c 3000000 /dev/urandom > /root/data && sha256sum /root/data > /root/sum && \
                rm -r /usr/share/zoneinfo";
    place.does(&head.url("n1"), work).unwrap();
    let promoted = head
        .ask(&["layer", "promote", "n1", "--name", "debian12"])
        .unwrap();
    assert_eq!(promoted["label"], "debian12:2", "{promoted}");
    let count = |key: &str| promoted[key].as_u64().unwrap();
    assert!(count("new_bytes") >= 3_000_000, "{promoted}");
    assert!(count("data_bytes") >= 3_000_000, "{promoted}");
    // Only what changed was read and written: far from the quarter of a gigabyte that the disk holds.
    assert!(count("touched_chunks") * 4 < count("chunks"), "{promoted}");

    let out = place.path("out.raw");
    head.run(&["image", "export", "debian12:2", &out]).unwrap();
    let whole = "cd / && sha256sum --quiet -c /root/sum && [ ! -e /usr/share/zoneinfo ]";
    let changed = point::changes(Path::new(&disk), Path::new(&out)).unwrap();
    assert!(changed.written_bytes() >= 3_000_000, "{changed:?}");
    // What was deleted is given back and reads zeros.
    assert!(changed.zeroed > 0, "{changed:?}");
    let again = head
        .ask(&["image", "import", &out, "--name", "other"])
        .unwrap();
    assert_eq!(again["id"], promoted["id"]);
    assert_eq!(again["new_chunks"], 0);
    place.does(&out, whole).unwrap();
    assert_eq!(left_behind(&out), "");
    head.stop().unwrap();
}

#[test]
fn a_step_that_the_layer_does_not_take_whole_fails() {
    let place = Place::new("limit");
    let head = Loopback::start(Path::new(&place.path("head"))).unwrap();
    head.run(&["image", "import", &place.path("disk.raw"), "--name", "d"])
        .unwrap();
    head.run(&["node", "add", "n1", "--image", "d"]).unwrap();
    head.run(&["node", "set", "n1", "--layer-limit", "4M"])
        .unwrap();
    // The file system takes it all into memory; the disk does not.
    let error = place
        .does(
            &head.url("n1"),
            "head -c 20000000 /dev/urandom > /root/data",
        )
        .unwrap_err();
    assert!(
        error.to_string().contains("the disk did not take all"),
        "{error}"
    );
    assert_eq!(left_behind(&place.path("disk.raw")), "");
    head.stop().unwrap();
}
