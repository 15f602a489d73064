//! What a file is by its content. Pure.

/// A format that a file has, by its first and last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Qcow2,
    Vhd,
    Vhdx,
    Vmdk,
    Packed(Packing),
    /// Name of a format that is not read here, and what to do.
    Foreign(&'static str, &'static str),
    /// Nothing that is known: the bytes of a disk.
    Raw,
}

/// How a raw disk is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    /// Its name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

const CONVERT: &str = "convert it first: qemu-img convert -O raw IN OUT";
const UNPACK: &str = "unpack it first";

/// First and last sector of a file.
#[derive(Clone, Debug)]
pub(super) struct Magic {
    pub(super) head: [u8; 512],
    pub(super) tail: [u8; 512],
}

impl Magic {
    /// What the file is.
    pub(super) fn content(&self) -> Content {
        use Content::{Foreign, Packed, Qcow2, Raw, Vhd, Vhdx, Vmdk};
        const STARTS: [(&[u8], Content); 15] = [
            (b"QFI\xfb", Qcow2),
            (b"vhdxfile", Vhdx),
            (b"KDMV", Vmdk),
            (b"# Disk DescriptorFile", Vmdk),
            (b"conectix", Vhd),
            (b"\x1f\x8b\x08", Packed(Packing::Gzip)),
            (b"\xfd7zXZ\0", Packed(Packing::Xz)),
            (b"\x28\xb5\x2f\xfd", Packed(Packing::Zstd)),
            (b"COWD", Foreign("VMDK (COWD)", CONVERT)),
            (b"QED\0", Foreign("QED", CONVERT)),
            (b"\x04\x22\x4d\x18", Foreign("lz4", UNPACK)),
            (b"BZh", Foreign("bzip2", UNPACK)),
            (b"PK\x03\x04", Foreign("zip", UNPACK)),
            (b"7z\xbc\xaf\x27\x1c", Foreign("7z", UNPACK)),
            (b"LZIP", Foreign("lzip", UNPACK)),
        ];
        let start = STARTS
            .iter()
            .find(|(magic, _)| self.head.starts_with(magic));
        if let Some((_, content)) = start {
            return *content;
        }
        if self.head[64..].starts_with(&[0x7f, 0x10, 0xda, 0xbe]) {
            return Foreign("VDI", CONVERT);
        }
        if self.head[257..].starts_with(b"ustar") {
            return Foreign("tar", UNPACK);
        }
        // The footer of a fixed VHD has 512 bytes, that of an old one 511.
        let footer = self.tail.starts_with(b"conectix") || self.tail[1..].starts_with(b"conectix");
        if footer { Vhd } else { Raw }
    }
}
