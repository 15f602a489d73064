//! The disk images of labs: built by their recipes on first use, kept until the recipe changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where images are kept, unless the environment says otherwise.
const CACHE: &str = "/var/cache/reveille-lab";
/// Environment variable with another place.
pub const CACHE_ENV: &str = "REVEILLE_LAB_CACHE";

/// The root of the source tree this program was built from.
#[must_use]
pub fn source_root() -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    tool.ancestors().nth(2).unwrap_or(tool).to_owned()
}

/// Path of the golden Debian 12 image with a root shell on its serial console. Builds it if needed (about
/// two minutes, root, a Debian mirror); several callers at once build it once. Never write to this file.
///
/// # Errors
/// When the recipe fails.
pub fn debian12() -> Result<PathBuf> {
    build("images/recipes/debian12", &["--lab"], "debian12-lab")
}

/// Path of the golden Debian 12 image that real machines boot: the common kernel, an initrd for every hardware, no
/// shell on the console. Built as [`debian12`] is. Never write to this file.
///
/// # Errors
/// When the recipe fails.
pub fn debian12_standard() -> Result<PathBuf> {
    build("images/recipes/debian12", &["--size", "1536"], "debian12")
}

/// Path of the Linux initiator's own disk, beside which its kernel and initrd lie (`.kernel`, `.initrd`).
/// Built as [`debian12`] is. Never write to these files.
///
/// # Errors
/// When the recipe fails.
pub fn initiator12() -> Result<PathBuf> {
    build("tools/lab/recipes/initiator12", &[], "initiator12")
}

/// Builds what `recipe` (below the source root) makes, and keeps it under `name` and the recipe's hash.
fn build(recipe: &str, flags: &[&str], name: &str) -> Result<PathBuf> {
    let script = source_root().join(recipe);
    let text = fs::read(&script).with_context(|| format!("recipe {}", script.display()))?;
    let cache = std::env::var_os(CACHE_ENV).map_or_else(|| PathBuf::from(CACHE), PathBuf::from);
    fs::create_dir_all(&cache).with_context(|| format!("image cache {}", cache.display()))?;
    let path = cache.join(format!("{name}-{:016x}.raw", fnv1a(&text)));
    let lock = File::create(cache.join("lock")).context("lock of the image cache")?;
    lock.lock().context("lock of the image cache")?;
    if path.exists() {
        return Ok(path);
    }
    eprintln!(
        "lab: building the image {} (once, about two minutes)",
        path.display()
    );
    let mut build = Command::new("nice");
    build
        .args(["-n", "5"])
        .arg(&script)
        .arg("--output")
        .arg(&path)
        .args(flags);
    let status = build
        .status()
        .with_context(|| format!("cannot start {}", script.display()))?;
    ensure!(status.success(), "{} ended with {status}", script.display());
    Ok(path)
}

/// FNV-1a, 64 bits: names a recipe's text; nothing depends on its strength.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_recipes_are_where_the_source_root_says() {
        assert!(source_root().join("images/recipes/debian12").exists());
        assert!(source_root().join("tools/lab/recipes/initiator12").exists());
    }

    /// Published test vectors of FNV-1a.
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
