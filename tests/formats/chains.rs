//! Differencing chains: read through all their files, bound to the right parents, and never out of the
//! directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use reveille::store::ErrorKind;

use super::{Files, check, check_anywhere, content, drain, open, open_with_parents, refused, tool};
use crate::build::{Block, MIB, Plan, mend_vhd_header, put};

const SIZE: usize = 3 * MIB + 512 * 9;

fn grandparent() -> Plan {
    Plan::new(
        "a",
        SIZE - MIB,
        512 << 10,
        vec![
            Block::Full,
            Block::Absent,
            Block::Full,
            Block::Full,
            Block::Absent,
        ],
    )
}

fn parent(of: &Plan, names: &[(&'static str, &str)]) -> Plan {
    let pattern = 0xf0f0_1234_8888_0001;
    let blocks = vec![
        Block::Some(pattern),
        Block::Full,
        Block::Absent,
        Block::Some(1),
        Block::Absent,
        Block::Absent,
        Block::Full,
    ];
    Plan::new("b", SIZE, 512 << 10, blocks).over(of, names)
}

fn child(of: &Plan, names: &[(&'static str, &str)]) -> Plan {
    // Other blocks than its parent's.
    let blocks = vec![
        Block::Absent,
        Block::Some(0x00ff_0000_ffff_0f0f),
        Block::Absent,
        Block::Some(!1),
    ];
    Plan::new("c", SIZE, 1 << 20, blocks).over(of, names)
}

fn vhd_chain(files: &Files) -> (PathBuf, Vec<u8>) {
    let a = grandparent();
    let b = parent(&a, &[("W2ku", "C:\\old\\a.vhd"), ("W2ru", ".\\a.vhd")]);
    let c = child(&b, &[("MacX", "file:///Volumes/x/b.vhd")]);
    files.write("a.vhd", &a.vhd());
    files.write("b.vhd", &b.vhd());
    (
        files.write("c.vhd", &c.vhd()),
        c.model(&b.model(&a.model(&[]))),
    )
}

#[test]
fn a_chain_of_vhd_files_is_read_as_one_disk() {
    let files = Files::new();
    let (path, model) = vhd_chain(&files);
    assert!(content(&path).unwrap() == model);
    check_anywhere(&mut *open(&path).unwrap(), &model);
}

#[test]
fn a_dynamic_vhd_made_by_hand_is_what_qemu_takes_it_for() {
    let files = Files::new();
    let path = files.write("a.vhd", &grandparent().vhd());
    assert!(super::by_qemu(&path, "vpc") == content(&path).unwrap());
}

#[test]
fn a_chain_on_a_fixed_vhd_is_read() {
    let files = Files::new();
    let raw = files.write("raw", &super::disk()[..2 * MIB]);
    let args = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
    ];
    let fixed = files.path("fixed.vhd");
    tool("qemu-img", &args, &[&raw, &fixed]);
    let bytes = fs::read(&fixed).unwrap();
    let mut base = grandparent();
    base.id
        .copy_from_slice(&bytes[bytes.len() - 512 + 68..][..16]);
    let top = parent(&base, &[("W2ru", "fixed.vhd")]);
    let path = files.write("top.vhd", &top.vhd());
    assert!(content(&path).unwrap() == top.model(&super::disk()[..2 * MIB]));
}

fn vhdx_chain(files: &Files, sector: usize) -> (PathBuf, Vec<u8>) {
    let size = 9 * MIB + 4096;
    let with = |plan: Plan| Plan { sector, ..plan };
    let full = vec![
        Block::Full,
        Block::Absent,
        Block::Full,
        Block::Full,
        Block::Zero,
    ];
    let a = with(Plan::new("xa", size - MIB, 2 * MIB, full));
    let blocks = vec![
        Block::Some(0xdead_beef_0000_0001),
        Block::Absent,
        Block::Zero,
        Block::Full,
        Block::Some(!0),
        Block::Absent,
        Block::Absent,
        Block::Absent,
        Block::Some(2),
        Block::Full,
    ];
    let b = Plan::new("xb", size, MIB, blocks).over(&a, &[("relative_path", ".\\sub\\a.vhdx")]);
    let b = with(b);
    let blocks = vec![
        Block::Absent,
        Block::Some(0x5555_5555_aaaa_aaaa),
        Block::Absent,
    ];
    let c = Plan::new("xc", size, 4 * MIB, blocks);
    let c = with(c.over(&b, &[("absolute_win32_path", "\\\\?\\C:\\VMs\\b.vhdx")]));
    fs::create_dir(files.path("sub")).unwrap();
    files.write("sub/a.vhdx", &a.vhdx());
    files.write("b.vhdx", &b.vhdx());
    (
        files.write("c.vhdx", &c.vhdx()),
        c.model(&b.model(&a.model(&[]))),
    )
}

#[test]
fn a_chain_of_vhdx_files_is_read_as_one_disk() {
    for sector in [512, 4096] {
        let files = Files::new();
        let (path, model) = vhdx_chain(&files, sector);
        assert!(content(&path).unwrap() == model, "sectors of {sector}");
        check_anywhere(&mut *open(&path).unwrap(), &model);
    }
}

/// Many chunks: their bitmaps lie between the entries of the table.
#[test]
fn bitmaps_of_a_vhdx_stand_between_its_blocks() {
    let files = Files::new();
    // 64 MiB blocks and 64 of them in a chunk: 130 blocks are three chunks.
    let mut blocks = vec![Block::Absent; 130];
    blocks[129] = Block::Full;
    blocks[64] = Block::Full;
    let base = Plan::new("base", 130 * 64 * MIB, 64 * MIB, blocks);
    let path = files.write("base.vhdx", &base.vhdx());
    let mut source = open(&path).unwrap();
    for number in [64_usize, 129] {
        let mut model = vec![0; 64 * MIB];
        super::noise(&format!("base {number}"), &mut model);
        let mut out = vec![0; 4096];
        source
            .read_at((number * 64 * MIB + 8192) as u64, &mut out)
            .unwrap();
        assert!(out == model[8192..8192 + 4096], "block {number}");
        source
            .read_at(((number - 1) * 64 * MIB) as u64, &mut out)
            .unwrap();
        assert!(out == [0; 4096]);
    }
    let args = ["compare", "-f", "vhdx", "-F", "raw"];
    let raw = files.path("raw");
    tool(
        "qemu-img",
        &["convert", "-f", "vhdx", "-O", "raw"],
        &[&path, &raw],
    );
    tool("qemu-img", &args, &[&path, &raw]);
    let mut same = open(&raw).unwrap();
    for at in [64 * 64 * MIB, 129 * 64 * MIB + 12_288] {
        let (mut one, mut other) = (vec![0; 4096], vec![0; 4096]);
        source.read_at(at as u64, &mut one).unwrap();
        same.read_at(at as u64, &mut other).unwrap();
        assert!(one == other);
    }
}

#[test]
fn the_parent_must_be_the_disk_that_the_child_was_made_from() {
    let files = Files::new();
    let (path, _) = vhd_chain(&files);
    let mut other = grandparent();
    other.id[3] ^= 1;
    files.write("a.vhd", &other.vhd());
    let says = [
        "b.vhd",
        "a.vhd is not the VHD disk",
        "bring the right parent",
    ];
    refused_chain(&path, ErrorKind::InvalidFormat, &says);
    let (path, _) = vhdx_chain(&files, 512);
    let mut other = Plan::new("xa", MIB, MIB, vec![Block::Full]);
    other.id[0] ^= 1;
    files.write("sub/a.vhdx", &other.vhdx());
    refused_chain(
        &path,
        ErrorKind::InvalidFormat,
        &["was written to since", "sub/a.vhdx"],
    );
}

fn refused_chain(path: &Path, kind: ErrorKind, says: &[&str]) {
    let e = content(path)
        .map(|bytes| bytes.len())
        .expect_err("a chain that must be refused");
    let named = says
        .iter()
        .find(|s| s.contains(".vhd"))
        .expect("the file at fault");
    let named = named.split(' ').next().unwrap();
    check(&e, kind, Path::new(named), says);
}

#[test]
fn a_parent_changed_after_the_child_was_made_is_refused() {
    let files = Files::new();
    let a = grandparent();
    let mut b = parent(&a, &[("W2ru", "a.vhd")]);
    b.parent_changed = 800_000_000;
    let base = files.write("a.vhd", &a.vhd());
    let path = files.write("b.vhd", &b.vhd());
    let set = |seconds: u64| {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options()
            .write(true)
            .open(&base)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    set(946_684_800 + 800_000_000);
    assert!(content(&path).unwrap() == b.model(&a.model(&[])));
    set(946_684_800 + 800_000_100);
    let says = ["a.vhd was changed after", "touch -d @1746684800"];
    refused(&path, ErrorKind::InvalidFormat, &says);
}

#[test]
fn parents_are_found_in_the_directory_that_the_administrator_names() {
    let (files, elsewhere) = (Files::new(), Files::new());
    let (path, model) = vhd_chain(&files);
    let moved = elsewhere.path("c.vhd");
    fs::rename(&path, &moved).unwrap();
    let says = ["b.vhd", "is not below", "--parents DIRECTORY"];
    refused(&moved, ErrorKind::NotFound, &says);
    let mut source = open_with_parents(&moved, files.dir()).unwrap();
    assert!(drain(&mut *source).unwrap() == model);
}

#[test]
fn names_and_links_out_of_the_directory_are_not_followed() {
    let (files, outside) = (Files::new(), Files::new());
    let a = grandparent();
    let secret = outside.write("secret.vhd", &a.vhd());
    let up = format!(
        "..\\{}\\secret.vhd",
        outside.dir().file_name().unwrap().to_str().unwrap()
    );
    for name in [secret.to_str().unwrap(), &up, "..", "/", "."] {
        let b = parent(&a, &[("W2ru", name)]);
        let path = files.write("b.vhd", &b.vhd());
        refused(
            &path,
            ErrorKind::NotFound,
            &["only the difference to its parent"],
        );
    }
    symlink(&secret, files.path("link.vhd")).unwrap();
    let b = parent(&a, &[("W2ru", "link.vhd")]);
    let path = files.write("b.vhd", &b.vhd());
    refused(&path, ErrorKind::InvalidFormat, &["link.vhd leads out of"]);
    let flat = format!(
        "# Disk DescriptorFile\nRW 8 FLAT \"{}\" 0\n",
        secret.display()
    );
    let path = files.write("d.vmdk", flat.as_bytes());
    refused(&path, ErrorKind::NotFound, &["is not below"]);
    let path = files.write(
        "d.vmdk",
        b"# Disk DescriptorFile\nRW 8 FLAT \"link.vhd\" 0\n",
    );
    refused(&path, ErrorKind::InvalidFormat, &["link.vhd leads out of"]);
    tool("mkfifo", &[], &[&files.path("pipe")]);
    let path = files.write("d.vmdk", b"# Disk DescriptorFile\nRW 8 FLAT \"pipe\" 0\n");
    refused(
        &path,
        ErrorKind::InvalidFormat,
        &["pipe is not a plain file"],
    );
}

#[test]
fn a_disk_that_is_its_own_ancestor_is_refused() {
    let files = Files::new();
    let mut a = grandparent();
    let b = parent(&a, &[("W2ru", "a.vhd")]);
    a = a.over(&b, &[("W2ru", "b.vhd")]);
    files.write("a.vhd", &a.vhd());
    let path = files.write("b.vhd", &b.vhd());
    refused(&path, ErrorKind::InvalidFormat, &["own ancestor"]);
    let itself = parent(&b, &[("W2ru", "self.vhd")]);
    let path = files.write("self.vhd", &itself.vhd());
    refused(&path, ErrorKind::InvalidFormat, &["own ancestor"]);
}

#[test]
fn a_chain_without_an_end_in_sight_is_refused() {
    let files = Files::new();
    let id = grandparent();
    for number in 0..70 {
        let name = format!("{}.vhd", number + 1);
        let plan = Plan::new("a", MIB, MIB, vec![Block::Absent]);
        let mut plan = plan.over(&id, &[("W2ru", &name)]);
        plan.id = id.id;
        files.write(&format!("{number}.vhd"), &plan.vhd());
    }
    refused(
        &files.path("0.vhd"),
        ErrorKind::Unsupported,
        &["more than 64 ancestors"],
    );
}

#[test]
fn a_differencing_disk_without_a_sensible_locator_is_refused() {
    let files = Files::new();
    let a = grandparent();
    let mut bytes = parent(&a, &[("W2ru", "a.vhd")]).vhd();
    // The name is said to have 4 GiB, then to lie past the end of the file.
    put(&mut bytes, 512 + 576 + 8, &[0xff; 4]);
    mend_vhd_header(&mut bytes[512..]);
    let path = files.write("b.vhd", &bytes);
    refused(&path, ErrorKind::InvalidFormat, &["the name of its parent"]);
    put(&mut bytes, 512 + 576 + 8, &10_u32.to_be_bytes());
    put(&mut bytes, 512 + 576 + 16, &[0x7f; 8]);
    mend_vhd_header(&mut bytes[512..]);
    let path = files.write("b.vhd", &bytes);
    refused(
        &path,
        ErrorKind::InvalidFormat,
        &["the name of its parent", "cut short"],
    );
}
