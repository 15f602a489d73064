//! The formats as an administrator meets them: `image import` and `image export`.

use std::fs;

use crate::build::{Block, MIB, Plan};
use crate::common::{TestHead, raw_disk, tool};

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[test]
fn an_image_goes_out_in_every_format_and_comes_back_as_itself() {
    let head = TestHead::new();
    let raw = head.path("golden.raw");
    raw_disk(&raw, 8);
    head.good(&["image", "import", &text(&raw), "--name", "golden"]);
    for (format, qemu) in [
        ("raw", "raw"),
        ("qcow2", "qcow2"),
        ("vhd", "vpc"),
        ("vhdx", "vhdx"),
    ] {
        let out = text(&head.path(&format!("out.{format}")));
        let args = ["image", "export", "golden", &out, "--format", format];
        let dry = head.good(&[&args[..], &["--dry-run"]].concat());
        assert!(
            dry.contains("would write") && fs::metadata(&out).is_err(),
            "{dry}"
        );
        head.good(&args);
        let same = tool(
            "qemu-img",
            &["compare", "-f", qemu, "-F", "raw", &out, &text(&raw)],
        );
        assert!(
            same.status.success(),
            "{format}: {}",
            String::from_utf8_lossy(&same.stdout)
        );
        let said = head.good(&["image", "import", &out, "--name", "golden"]);
        assert!(
            said.contains("this very content already"),
            "{format}: {said}"
        );
        assert!(head.bad(&args, 4).contains("exists already"));
    }
    let said = head.bad(&["image", "export", "golden", "x", "--format", "vmdk"], 1);
    assert!(said.contains("raw, qcow2, vhd or vhdx"), "{said}");
    let packed = text(&head.path("golden.raw"));
    assert!(tool("xz", &["-k", "-0", &packed]).status.success());
    let said = head.good(&[
        "image",
        "import",
        &format!("{packed}.xz"),
        "--name",
        "golden",
    ]);
    assert!(said.contains("this very content already"), "{said}");
}

#[test]
fn a_differencing_disk_is_imported_with_its_parents() {
    let head = TestHead::new();
    let base = Plan::new("base", MIB, MIB, vec![Block::Full]);
    let top = Plan::new("top", MIB, MIB, vec![Block::Some(5)]);
    let top = top.over(&base, &[("relative_path", "base.vhdx")]);
    fs::create_dir(head.path("parents")).unwrap();
    fs::write(head.path("parents/base.vhdx"), base.vhdx()).unwrap();
    fs::write(head.path("top.vhdx"), top.vhdx()).unwrap();
    let path = text(&head.path("top.vhdx"));
    let args = ["image", "import", &path, "--name", "d", "--format", "vhdx"];
    let said = head.bad(&args, 1);
    assert!(
        said.contains("base.vhdx") && said.contains("--parents"),
        "{said}"
    );
    let parents = text(&head.path("parents"));
    head.good(&[&args[..], &["--parents", &parents]].concat());
    let out = head.path("out.raw");
    head.good(&["image", "export", "d", &text(&out)]);
    assert!(fs::read(&out).unwrap() == top.model(&base.model(&[])));
}
